"""From a solver's rough point to the optimum: an interior-point method on the groups that are on, with a certificate.

Over the chosen groups g, with signs sigma_g and slacks s_g = E_g X u_g, Newton's method follows the central path of

    l(sum_g sigma_g D_g X u_g, y) + beta sum_g |u_g| - mu sum log s,

with multipliers zeta = mu / s of the slacks as unknowns of their own (Mehrotra's predictor and corrector) and the norm
smoothed by the barrier of its second-order cone: t_g = (mu + sqrt(mu^2 + beta^2 |u_g|^2)) / beta, gradient beta u_g / t_g.
A hinge brings slacks and multipliers of its own (`newton_terms`).
Groups whose dual constraint is violated at the end are added, and the method goes again: the groups chosen at first decide
the time it takes and not the result.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from twolayer.cones import largest_step, weighted_grams
from twolayer.newton_terms import Pairs, newton_term
from twolayer.program import Certificate, ConvexProgram

_ITERATIONS = 80
_FIRST_MU = 100.0
"""The central path starts at this multiple of objective / number of products: room to become feasible first."""
_LEAST_CENTRING = 1e-3
_STATIONARY = 1e-3
"""Residual, over beta, at which the multipliers are exact enough to prove a bound with."""
_RIDGE = 1e-13
"""Added to the Newton system's diagonal, relative to its mean."""
_OFF = 1e-7
"""A group this small beside the largest is off."""


_MOST_UNKNOWNS = 6000
"""Order of the largest Newton system: 288 MB in float64, and a second or so to factor."""


class Polished(NamedTuple):
    """A point inside its cones and what it proves."""

    u: Tensor
    """``[2, n_patterns, d]``."""
    certificate: Certificate
    n_newton: int
    """Newton iterations in all."""


def can_polish(program: ConvexProgram, start: Tensor) -> bool:
    """Whether the groups of a start that are on make a Newton system small enough to solve."""
    return int((start.norm(dim=2) > 0).sum()) * program.shape[2] <= _MOST_UNKNOWNS


def polish(program: ConvexProgram, start: Tensor, *, tolerance: float, rounds: int = 10) -> Polished:
    """The optimum to a relative gap of ``tolerance``, from the groups of ``start [2, n_patterns, d]`` that are not zero.

    The certificate says whether it was reached: ``rounds`` of adding groups may end before.
    """
    chosen = start.norm(dim=2) > 0
    if not bool(chosen.any()):
        chosen[:, 0] = True
    n_newton = 0
    while True:
        path = _CentralPath(program, chosen, start)
        path.follow(tolerance)
        n_newton += path.n_steps
        u, r = path.point(), path.dual_point()
        slopes = program.dual_slopes(r, path.multipliers())
        certificate = program.certificate(u, r, slopes)
        violators = ~chosen & (slopes > program.beta)
        rounds -= 1
        if certificate.relative_gap <= tolerance or rounds == 0 or not bool(violators.any()):
            return Polished(u, certificate, n_newton)
        chosen = (u.norm(dim=2) > 0) | violators
        start = u


class _Direction(NamedTuple):
    """A Newton step and how far along it points and multipliers stay positive."""

    v: Tensor
    s: Tensor
    zeta: Tensor
    pairs: Pairs
    """Of the loss."""
    primal_length: float
    dual_length: float


class _CentralPath:
    """The iterates over m chosen groups: points v ``[m, d]``, slacks s and their multipliers zeta ``[n, m]``."""

    def __init__(self, program: ConvexProgram, chosen: Tensor, start: Tensor) -> None:
        self.program = program
        self.halves, self.columns = chosen.nonzero(as_tuple=True)
        sides = torch.where(self.halves == 0, 1.0, -1.0).to(program.x.dtype)
        self.signs = program.signs[:, self.columns]
        self.maps = (program.active[:, self.columns] * sides).T[:, :, None] * program.x
        """``[m, n, d]``: sigma_g D_g X."""
        self.flat = self.maps.transpose(0, 1).flatten(1)
        self.v = start[self.halves, self.columns]
        slacks = self.signs * (program.x @ self.v.T)
        self.s = slacks.clamp_min(max(float(slacks.abs().mean()), 1e-3 * float(program.x.norm(dim=1).mean())))
        self.scale = max(1.0, program.objective(start))
        self.n_constraints = self.s.numel() + 2 * len(self.v) + 2 * len(program.y)
        self.mu = _FIRST_MU * self.scale / self.n_constraints
        self.zeta = self.mu / self.s
        self.term = newton_term(program.loss, program.y, self._predictions(), self.mu)
        self.n_steps = 0

    def follow(self, tolerance: float) -> None:
        """Newton steps until the gap is a tenth of ``tolerance`` relative to the objective."""
        enough = 0.1 * tolerance * self.scale / self.n_constraints
        while self.n_steps < _ITERATIONS:
            gap = _mean_product(self.s, self.zeta, self.term.pairs)
            if max(gap, self.mu) <= enough and self._residual() < _STATIONARY:
                return
            self._step(gap)
            self.n_steps += 1

    def point(self) -> Tensor:
        """``[2, n_patterns, d]``."""
        u = torch.zeros(self.program.shape, dtype=self.v.dtype, device=self.v.device)
        norms = self.v.norm(dim=1, keepdim=True)
        u[self.halves, self.columns] = torch.where(norms > _OFF * norms.max(), self.v, 0.0)
        return u

    def dual_point(self) -> Tensor:
        """r = -dl/df, ``[n]``."""
        return -self.term.slope(self._predictions())

    def multipliers(self) -> Tensor:
        """zeta of the chosen groups and zero for the others, ``[2, n, n_patterns]``."""
        zeta = torch.zeros(2, *self.program.active.shape, dtype=self.v.dtype, device=self.v.device)
        zeta[self.halves, :, self.columns] = self.zeta.T
        return zeta

    def _predictions(self) -> Tensor:
        return self.flat @ self.v.flatten()

    def _norm_gradient(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of the smoothed norms ``[m, d]``; their t and its root ``[m]``."""
        root = (self.mu * self.mu + self.program.beta**2 * self.v.square().sum(dim=1)).sqrt()
        t = (self.mu + root) / self.program.beta
        return self.program.beta * self.v / t[:, None], t, root

    def _residual(self) -> float:
        """Largest failure of stationarity of a group, over beta."""
        pull = (self.term.slope(self._predictions()) @ self.flat).view_as(self.v) + self._norm_gradient()[0]
        return float((pull - (self.signs * self.zeta).T @ self.program.x).norm(dim=1).max()) / self.program.beta

    def _step(self, gap: float) -> None:
        """Mehrotra's: a step towards mu = 0 says how much centring is due and corrects for its own curvature."""
        nothing = torch.zeros_like(self.term.pairs.primal)
        _, curvature = self.term.linearised(self._predictions(), nothing)
        factor = self._factor(curvature)
        ahead = self._direction(factor, torch.zeros_like(self.s), nothing)
        left = _mean_product(
            self.s + ahead.primal_length * ahead.s,
            self.zeta + ahead.dual_length * ahead.zeta,
            self.term.pairs.moved(ahead.pairs, ahead.primal_length, ahead.dual_length),
        )
        self.mu = min(max((left / gap) ** 3, _LEAST_CENTRING), 1.0) * gap
        step = self._direction(factor, self.mu - ahead.s * ahead.zeta, self.mu - ahead.pairs.primal * ahead.pairs.dual)
        self.v = self.v + step.primal_length * step.v
        self.s = self.s + step.primal_length * step.s
        self.zeta = self.zeta + step.dual_length * step.zeta
        self.term.pairs = self.term.pairs.moved(step.pairs, step.primal_length, step.dual_length)

    def _factor(self, curvature: Tensor) -> Tensor:
        """Cholesky factor of the Newton system in v, ``[m d, m d]``."""
        m, d = self.v.shape
        beta = self.program.beta
        _, t, root = self._norm_gradient()
        hessian = (self.flat.T * curvature) @ self.flat
        blocks = weighted_grams(self.program.x, self.zeta / self.s)
        blocks -= (beta / (t * t * root) * beta)[:, None, None] * self.v[:, :, None] * self.v[:, None, :]
        blocks.diagonal(dim1=1, dim2=2).add_((beta / t)[:, None])
        groups = torch.arange(m, device=self.v.device)
        hessian.view(m, d, m, d)[groups, :, groups, :] += blocks
        return _regularised_cholesky(hessian)

    def _direction(self, factor: Tensor, target: Tensor, pair_target: Tensor) -> _Direction:
        """The Newton step that would bring s * zeta to ``target [n, m]`` and the loss's products to ``pair_target``."""
        x, signs, s, zeta = self.program.x, self.signs, self.s, self.zeta
        infeasible = s - signs * (x @ self.v.T)
        slope, _ = self.term.linearised(self._predictions(), pair_target)
        gradient = (slope @ self.flat).view_as(self.v) + self._norm_gradient()[0]
        right = (signs * ((target + zeta * infeasible) / s)).T @ x - gradient
        dv = torch.cholesky_solve(right.reshape(-1, 1), factor).view_as(self.v)
        ds = signs * (x @ dv.T) - infeasible
        dzeta = (target - zeta * ds) / s - zeta
        dpairs = self.term.change(self.flat @ dv.flatten(), pair_target)
        pair_lengths = self.term.pairs.lengths(dpairs)
        primal_length = min(float(largest_step(s, ds).min()), pair_lengths[0])
        dual_length = min(float(largest_step(zeta, dzeta).min()), pair_lengths[1])
        return _Direction(dv, ds, dzeta, dpairs, primal_length, dual_length)


def _regularised_cholesky(matrix: Tensor) -> Tensor:
    """Of a positive definite matrix that rounding may have made indefinite: the ridge grows until the factor exists."""
    ridge = _RIDGE * float(matrix.diagonal().mean())
    while True:
        matrix.diagonal().add_(ridge)
        factor, info = torch.linalg.cholesky_ex(matrix)
        if int(info) == 0:
            return factor
        ridge *= 100


def _mean_product(s: Tensor, zeta: Tensor, pairs: Pairs) -> float:
    total = float((s * zeta).sum() + pairs.primal @ pairs.dual)
    return total / (s.numel() + len(pairs.primal))
