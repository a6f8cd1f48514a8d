"""The linear system of an interior-point step over m groups, (blockdiag(B_g) + F' C F) dv = right, F_g = sigma_g D_g X.

With more unknowns than rows, Woodbury's identity moves it to the rows: over S_i, the sum of B_g^-1 over the one or two groups of
pattern i, the n x n matrix I + C^1/2 (sum_i D_i X S_i X' D_i) C^1/2 is factored, n^2 d multiplications a pattern. That needs a
smooth loss: the curvature of a hinge grows without bound as B_g^-1 does, and rounding would decide the step.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_RIDGES = (1e-13, 1e-11, 1e-9, 1e-7)
"""Added to a diagonal in turn, relative to its mean, until the factor exists."""
_REFINEMENTS = 1
_GRAM_BLOCKS = 6


class Plan(NamedTuple):
    """How a system is solved."""

    on_rows: bool
    """Whether over rows instead of unknowns."""
    work: float
    """Multiplications of one factorisation, roughly."""


def plan_of(n: int, d: int, *, n_groups: int, n_patterns: int, is_smooth: bool) -> Plan:
    """The cheaper way for ``n`` rows, and groups of ``d`` unknowns in so many patterns."""
    n_unknowns = n_groups * d
    rows = n * n * (n_patterns * d + n / 3)
    unknowns = n_unknowns * n_unknowns * (n + n_unknowns / 3)
    return Plan(True, rows) if is_smooth and rows < unknowns else Plan(False, unknowns)


class GroupMaps:
    """F for the chosen groups of a program.

    Args:
        x: ``[n, d]``.
        active: ``[n, n_patterns]``, 0 or 1.
        columns: ``[m]``, the pattern of each group.
        sides: ``[m]``, 1 or -1: its sign in the prediction.
        is_smooth: whether the loss has a bounded curvature.
    """

    def __init__(self, x: Tensor, active: Tensor, columns: Tensor, sides: Tensor, *, is_smooth: bool) -> None:
        self.x = x
        self.weights = active[:, columns] * sides
        """``[n, m]``: sigma_g d_kg."""
        patterns, self.pattern_of = columns.unique(return_inverse=True)
        self.active = active[:, patterns]
        """``[n, n_patterns_used]``."""
        n, d = x.shape
        plan = plan_of(n, d, n_groups=len(columns), n_patterns=len(patterns), is_smooth=is_smooth)
        self.on_rows = plan.on_rows
        self._flat = None if plan.on_rows else (self.weights[:, :, None] * x[:, None, :]).flatten(1)

    def predictions(self, v: Tensor) -> Tensor:
        """F v, ``[n]``, of ``v [m, d]``."""
        return torch.linalg.vecdot(self.x @ v.T, self.weights)

    def adjoint(self, r: Tensor) -> Tensor:
        """F' r, ``[m, d]``, of ``r [n]``."""
        return (self.weights * r[:, None]).T @ self.x

    def dense(self) -> Tensor:
        """F, ``[n, m d]``."""
        assert self._flat is not None
        return self._flat


class NewtonSystem:
    """Factored once, solved for several right-hand sides.

    Args:
        maps: F.
        blocks: ``[m, d, d]``, B_g, positive definite.
        curvature: ``[n]``, the diagonal of C, 0 or more.
    """

    def __init__(self, maps: GroupMaps, blocks: Tensor, curvature: Tensor) -> None:
        self._maps, self._blocks, self._curvature = maps, blocks, curvature
        if maps.on_rows:
            self._block_factors = cholesky(blocks)
            inverses = torch.cholesky_inverse(self._block_factors)
            sums = torch.zeros(maps.active.shape[1], *blocks.shape[1:], dtype=blocks.dtype, device=blocks.device)
            sums.index_add_(0, maps.pattern_of, inverses)
            reduced = (maps.active * curvature.sqrt()[:, None]).T[:, :, None] * (maps.x @ cholesky(sums))
            reduced = reduced.transpose(0, 1).flatten(1)
            outer = _lower_gram(reduced)
            outer.diagonal().add_(1)
            self._factor = cholesky(outer)
        else:
            m, d, _ = blocks.shape
            flat = maps.dense()
            hessian = (flat.T * curvature) @ flat
            groups = torch.arange(m, device=blocks.device)
            hessian.view(m, d, m, d)[groups, :, groups, :] += blocks
            self._factor = cholesky(hessian)

    def solve(self, right: Tensor) -> Tensor:
        """dv ``[m, d]`` for ``right [m, d]``."""
        dv = self._solve_once(right)
        for _ in range(_REFINEMENTS if self._maps.on_rows else 0):
            dv = dv + self._solve_once(right - self._product(dv))
        return dv

    def _product(self, v: Tensor) -> Tensor:
        return (self._blocks @ v[:, :, None])[:, :, 0] + self._maps.adjoint(self._curvature * self._maps.predictions(v))

    def _solve_once(self, right: Tensor) -> Tensor:
        if not self._maps.on_rows:
            return torch.cholesky_solve(right.reshape(-1, 1), self._factor).view_as(right)
        root = self._curvature.sqrt()
        first = _block_solve(self._block_factors, right)
        h = torch.cholesky_solve((root * self._maps.predictions(first))[:, None], self._factor)[:, 0]
        return first - _block_solve(self._block_factors, self._maps.adjoint(root * h))


def _lower_gram(a: Tensor) -> Tensor:
    """A A' on and below the diagonal, which is all that a Cholesky factor reads; above it partly zero."""
    n = len(a)
    gram = torch.zeros(n, n, dtype=a.dtype, device=a.device)
    step = -(-n // _GRAM_BLOCKS)
    for start in range(0, n, step):
        end = start + step
        torch.mm(a[start:end], a[:end].T, out=gram[start:end, :end])
    return gram


def _block_solve(factors: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right[:, :, None], factors)[:, :, 0]


def cholesky(matrix: Tensor) -> Tensor:
    """Of positive definite matrices that rounding may have made indefinite: the ridge grows until the factors exist.

    Raises torch.linalg.LinAlgError when a large ridge does not help.
    """
    mean = matrix.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None]
    for ridge in _RIDGES:
        factor, info = torch.linalg.cholesky_ex(matrix)
        if not bool(info.any()):
            return factor
        matrix = matrix + torch.diag_embed((ridge * mean).expand(matrix.shape[:-1]))
    return torch.linalg.cholesky(matrix)
