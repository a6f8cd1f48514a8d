"""From a solver's rough point to the optimum: a primal-dual interior-point method on the groups that are on, with a certificate.

Over the chosen groups g, with signs sigma_g and slacks s_g = E_g X v_g, it follows the central path of

    l(sum_g sigma_g D_g X v_g, y) + beta sum_g t_g,    (t_g, v_g) in the second-order cone,  s_g >= 0,

with Mehrotra's predictor and corrector: the multipliers zeta of the slacks, w of the norms (`norm_cones`) and those of a hinge
(`newton_terms`) are unknowns of their own. Groups whose dual constraint is violated at the end are added, and the method goes
again: the groups chosen at first decide the time it takes and not the result.
"""

from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from twolayer.cones import TO_BOUNDARY, to_boundary, weighted_grams
from twolayer.newton_system import GroupMaps, NewtonSystem, plan_of
from twolayer.newton_terms import Pairs, newton_term
from twolayer.norm_cones import NormCones
from twolayer.program import Certificate, ConvexProgram

_ITERATIONS = 60
_FIRST_MU = 100.0
"""The products on the central path sum to this multiple of the objective at first: far enough to become feasible first."""
_INWARD = 0.1
"""Groups begin moved inside their cones by lengths that make this share of the objective."""
_CORRECTORS = 4
"""Extra solves with a factor, each tried only while steps are short (Gondzio 1996)."""
_LONG_ENOUGH = 0.9
_PATIENCE = 6
"""Steps without progress after which rounding allows no more."""
_OFF = 1e-7
"""A group this small beside the largest is off."""
_MOST_WORK = 3e11
"""Multiplications of the largest Newton system factored: several seconds on a few cores."""


class Polished(NamedTuple):
    """A point and what it proves."""

    u: Tensor
    """``[2, n_patterns, d]``."""
    certificate: Certificate
    n_newton: int
    """Newton iterations in all."""


def can_polish(program: ConvexProgram, start: Tensor) -> bool:
    """Whether the groups of a start that are on make a Newton system small enough to solve."""
    is_on = start.norm(dim=2) > 0
    n, d = program.x.shape
    n_groups, n_patterns = int(is_on.sum()), int(is_on.any(dim=0).sum())
    plan = plan_of(n, d, n_groups=n_groups, n_patterns=n_patterns, is_smooth=program.loss.is_smooth)
    return plan.work <= _MOST_WORK


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
    """A Newton step."""

    s: Tensor
    zeta: Tensor
    cones: tuple[Tensor, Tensor]
    """Of (t, v) and of their multipliers."""
    pairs: Pairs
    """Of the loss."""


class _CentralPath:
    """The iterates over m chosen groups: points v ``[m, d]``, slacks s and their multipliers zeta ``[n, m]``."""

    def __init__(self, program: ConvexProgram, chosen: Tensor, start: Tensor) -> None:
        self.program = program
        self.halves, self.columns = chosen.nonzero(as_tuple=True)
        sides = torch.where(self.halves == 0, 1.0, -1.0).to(program.x.dtype)
        self.maps = GroupMaps(program.x, program.active, self.columns, sides, is_smooth=program.loss.is_smooth)
        self.system = NewtonSystem(self.maps)
        self.signs = program.signs[:, self.columns]
        self.scale = max(1.0, program.objective(start))
        inward = _INWARD * self.scale / (len(self.columns) * program.beta)
        v = start[self.halves, self.columns] + inward * program.directions[self.columns]
        slacks = self.signs * (program.x @ v.T)
        self.s = slacks.clamp_min(max(float(slacks.abs().mean()), 1e-3 * float(program.x.norm(dim=1).mean())))
        f = self.maps.predictions(v)
        n_pairs = len(newton_term(program.loss, program.y, f, 1.0).pairs.primal)
        self.degree = self.s.numel() + len(v) + n_pairs
        mu = _FIRST_MU * self.scale / self.degree
        self.zeta = mu / self.s
        self.cones = NormCones(v, program.beta, mu)
        self.term = newton_term(program.loss, program.y, f, mu)
        self.n_steps = 0

    def follow(self, tolerance: float) -> None:
        """Newton steps until gap and stationarity are a third of ``tolerance``, or rounding allows no more; keeps the best."""
        best = (float("inf"), self._state())
        n_idle = 0
        while self.n_steps < _ITERATIONS and n_idle < _PATIENCE:
            residual = self._stationarity()
            error = max(self._gap() / self.scale, float(residual.norm(dim=1).max()) / self.program.beta)
            n_idle += 1
            if error < best[0]:
                best, n_idle = (error, self._state()), 0
            if error <= tolerance / 3:
                return
            self.n_steps += 1
            try:
                self._step(residual)
            except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
                break
        self.s, self.zeta, self.cones, self.term.pairs = best[1]

    def _state(self) -> tuple[Tensor, Tensor, NormCones, Pairs]:
        return self.s, self.zeta, copy(self.cones), self.term.pairs

    def point(self) -> Tensor:
        """``[2, n_patterns, d]``."""
        v = self.cones.v
        u = torch.zeros(self.program.shape, dtype=v.dtype, device=v.device)
        norms = v.norm(dim=1, keepdim=True)
        u[self.halves, self.columns] = torch.where(norms > _OFF * norms.max(), v, 0.0)
        return u

    def dual_point(self) -> Tensor:
        """r = -dl/df, ``[n]``."""
        return -self.term.slope(self._predictions())

    def multipliers(self) -> Tensor:
        """zeta of the chosen groups and zero for the others, ``[2, n, n_patterns]``."""
        zeta = torch.zeros(2, *self.program.active.shape, dtype=self.s.dtype, device=self.s.device)
        zeta[self.halves, :, self.columns] = self.zeta.T
        return zeta

    def _predictions(self) -> Tensor:
        return self.maps.predictions(self.cones.v)

    def _gap(self) -> float:
        pairs = self.term.pairs
        return float((self.s * self.zeta).sum() + pairs.primal @ pairs.dual) + self.cones.gap

    def _stationarity(self) -> Tensor:
        """Gradient of the Lagrangian in v, ``[m, d]``."""
        pull = self.maps.adjoint(self.term.slope(self._predictions())) + self.cones.gradient
        return pull - (self.signs * self.zeta).T @ self.program.x

    def _step(self, residual: Tensor) -> None:
        """Mehrotra's: a step towards mu = 0 says how much centring is due and corrects for its own curvature."""
        nothing = torch.zeros_like(self.term.pairs.primal)
        _, curvature = self.term.linearised(self._predictions(), nothing)
        blocks = weighted_grams(self.program.x, self.zeta / self.s) + self.cones.curvature
        self.system.factor(blocks, curvature)
        ahead = self._direction(residual, 1.0, torch.zeros_like(self.s), nothing, self.cones.pull(0.0, None))
        centring = (1 - self._length(ahead)) ** 3
        mu = centring * self._gap() / self.degree
        pair_target = mu - ahead.pairs.primal * ahead.pairs.dual
        pull = self.cones.pull(mu, self.cones.correction(*ahead.cones))
        target = mu - ahead.s * ahead.zeta
        step = self._direction(residual, 1 - centring, target, pair_target, pull)
        length = self._length(step)
        for _ in range(_CORRECTORS if length < _LONG_ENOUGH else 0):
            target = target + self._outliers(step, min(1.0, 1.3 * length + 0.1), mu)
            corrected = self._direction(residual, 1 - centring, target, pair_target, pull)
            longer = self._length(corrected)
            if longer < 1.05 * length:
                break
            step, length = corrected, longer
        self.s = self.s + length * step.s
        self.zeta = self.zeta + length * step.zeta
        self.cones.move(*step.cones, length)
        self.term.pairs = self.term.pairs.moved(step.pairs, length)

    def _outliers(self, step: _Direction, length: float, mu: float) -> Tensor:
        """How far products after a step would lie from [mu / 10, 10 mu]: Gondzio's correction, which lets steps be longer."""
        products = (self.s + length * step.s) * (self.zeta + length * step.zeta)
        return (products.clamp(0.1 * mu, 10 * mu) - products).clamp_min(-10 * mu)

    def _direction(
        self, residual: Tensor, share: float, target: Tensor, pair_target: Tensor, pull: Tensor
    ) -> _Direction:
        """The Newton step that removes a share of the residuals and brings the products to their targets."""
        x, signs, s, zeta = self.program.x, self.signs, self.s, self.zeta
        infeasible = share * (s - signs * (x @ self.cones.v.T))
        f = self._predictions()
        slope, _ = self.term.linearised(f, pair_target)
        right = (signs * ((target - s * zeta + zeta * infeasible) / s)).T @ x
        right -= share * residual + self.maps.adjoint(slope - self.term.slope(f)) + self.cones.constant(pull)
        dv = self.system.solve(right)
        ds = signs * (x @ dv.T) - infeasible
        dzeta = (target - zeta * ds) / s - zeta
        dpairs = self.term.change(self.maps.predictions(dv), pair_target)
        return _Direction(ds, dzeta, self.cones.change(dv, pull), dpairs)

    def _length(self, step: _Direction) -> float:
        """How far along a step everything stays positive, 1 at most."""
        longest = min(
            to_boundary(self.s, step.s),
            to_boundary(self.zeta, step.zeta),
            self.cones.longest_step(*step.cones),
            self.term.pairs.longest_step(step.pairs),
        )
        return min(1.0, TO_BOUNDARY * longest)
