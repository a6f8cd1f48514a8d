"""Pattern cones {v : E X v >= 0}: projecting onto many of them at once, and moving points inside.

Projections are found by a primal-dual interior-point method, batched over cones. Whatever its accuracy, its multipliers
are non-negative, which is all that a dual bound needs.
"""

import torch
from torch import Tensor

_ITERATIONS = 60
_TOLERANCE = 1e-11
TO_BOUNDARY = 0.99
"""Share of the way to the boundary that an interior-point step goes."""
_CENTRING = 0.1
_CENTRED = 0.1
_MOST_ENTRIES = 1 << 25
"""Entries of outer products of rows, or of per-cone slacks, alive at a time."""


def cone_projection(x: Tensor, signs: Tensor, c: Tensor, inside: Tensor) -> Tensor:
    """``[m, d]``: c + X' E zeta with zeta >= 0, of nearly the least norm: the projection of each c onto its cone.

    By Moreau the least norm over zeta >= 0 is that of the projection; an inexact zeta gives a larger one.

    Args:
        x: ``[n, d]``.
        signs: ``[n, m]``, -1 or 1: the cones.
        c: ``[m, d]``: what to project.
        inside: ``[m, d]``: a direction strictly inside each cone.
    """
    rows = x[x.norm(dim=1) > 0]
    signs = signs[x.norm(dim=1) > 0]
    per_cone = rows.numel()
    step = max(1, _MOST_ENTRIES // per_cone)
    pieces = [
        _project(rows, signs[:, start : start + step], c[start : start + step], inside[start : start + step])
        for start in range(0, len(c), step)
    ]
    return torch.cat(pieces)


def cone_centres(x: Tensor, signs: Tensor, inside: Tensor) -> Tensor:
    """``[m, d]``: unit vectors at the analytic centre of each cone, min 1/2 |v|^2 - mean log (E X v), from strictly inside."""
    rows = x[x.norm(dim=1) > 0]
    signs = signs[x.norm(dim=1) > 0]
    unit = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    v = inside
    for _ in range(_ITERATIONS):
        s = signs * (rows @ v.T)
        hessian = weighted_grams(rows, 1 / (len(rows) * s.square())) + unit
        gradient = v - (signs / (len(rows) * s)).T @ rows
        dv = -torch.linalg.solve(hessian, gradient)
        decrement = (-(gradient * dv).sum(dim=1) * len(rows)).clamp_min(0).sqrt()
        if float(decrement.max()) < _CENTRED:
            break
        v = v + torch.where(decrement > 0.25, 1 / (1 + decrement), 1.0)[:, None] * dv
    return v / v.norm(dim=1, keepdim=True)


def _project(x: Tensor, signs: Tensor, c: Tensor, inside: Tensor) -> Tensor:
    """min 1/2 |v - c|^2 s.t. E X v >= 0, with v - c = X' E zeta and s zeta = mu on the central path."""
    size = c.norm(dim=1, keepdim=True).clamp_min(torch.finfo(c.dtype).tiny)
    c = c / size
    unit = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    v = inside.clone()
    s = signs * (x @ v.T)
    mu = (s.mean(dim=0) / len(x)).clamp_min(_TOLERANCE)
    zeta = mu / s
    for _ in range(_ITERATIONS):
        gap = (s * zeta).sum(dim=0)
        if float(gap.max()) < _TOLERANCE:
            break
        mu = _CENTRING * gap / len(x)
        hessian = weighted_grams(x, zeta / s) + unit
        right = c - v + (signs * (mu / s)).T @ x
        dv, info = torch.linalg.solve_ex(hessian, right)
        if bool(info.any()) or not bool(torch.isfinite(dv).all()):
            break  # as near as rounding allows
        ds = signs * (x @ dv.T)
        dzeta = (mu - zeta * ds) / s - zeta
        v = v + largest_step(s, ds)[:, None] * dv
        s = signs * (x @ v.T)
        zeta = zeta + largest_step(zeta, dzeta) * dzeta
    return (c + (signs * zeta).T @ x) * size


def weighted_grams(x: Tensor, weights: Tensor) -> Tensor:
    """``[m, d, d]``: X' diag(weights_i) X for each column of ``weights [n, m]``, in one product with all x_k x_k'."""
    n, d = x.shape
    total = torch.zeros(weights.shape[1], d * d, dtype=x.dtype, device=x.device)
    step = max(1, _MOST_ENTRIES // (d * d))
    for start in range(0, n, step):
        rows = x[start : start + step]
        total.addmm_(weights[start : start + step].T, (rows[:, :, None] * rows[:, None, :]).flatten(1))
    return total.view(-1, d, d)


def to_boundary(values: Tensor, change: Tensor) -> float:
    """The longest step up to which positive values, at least one, stay positive; infinite if they always do."""
    return float(torch.where(change < 0, -values / change, torch.inf).amin())


def largest_step(values: Tensor, change: Tensor) -> Tensor:
    """``[m]``: the largest step in (0, 1] that keeps the positive columns of ``values [n, m]`` positive."""
    ratio = torch.where(change < 0, -values / change, torch.inf).amin(dim=0)
    return (TO_BOUNDARY * ratio).clamp_max(1.0)


def pull_inside(x: Tensor, signs: Tensor, u: Tensor, inside: Tensor) -> Tensor:
    """``[m, d]``: u_i moved along its cone's inner direction by the least amount that makes it feasible."""
    slacks = signs * (x @ u.T)
    margins = signs * (x @ inside.T)
    needed = torch.where((slacks < 0) & (margins > 0), -slacks / margins, 0.0).amax(dim=0)
    moved = u + needed[:, None] * inside
    return torch.where((u.norm(dim=1) > 0)[:, None], moved, 0.0)
