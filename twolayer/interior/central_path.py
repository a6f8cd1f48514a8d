"""The central path of the convex program on chosen groups: a primal-dual interior-point method, one Newton step at a time.

Over groups g with signs sigma_g and slacks s_g = E_g X v_g, its points solve

    l(sum_g sigma_g D_g X v_g, y) + beta sum_g t_g,    (t_g, v_g) in the second-order cone,  s_g >= 0,

with Mehrotra's predictor and corrector: the multipliers zeta of the slacks, w of the norms (`norm_cones`) and those of a hinge
(`newton_terms`) are unknowns of their own.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from twolayer.certificate import resolution
from twolayer.convex.cones import TO_BOUNDARY, to_boundary, weighted_grams
from twolayer.convex.program import ConvexProgram
from twolayer.interior.newton_system import GroupMaps, NewtonSystem
from twolayer.interior.newton_terms import Pairs, newton_term
from twolayer.interior.norm_cones import NormCones

_FIRST_MU = 100.0
"""The products on the central path sum to this multiple of the objective at first: far enough to become feasible first."""
_INWARD = 0.1
"""Groups begin moved inside their cones by lengths that make this share of the objective."""
_CORRECTORS = 4
"""Extra solves with a factor, each tried only while steps are short (Gondzio 1996)."""
_LONG_ENOUGH = 0.9
_MOST_STEPS = 60
_PATIENCE = 6
"""Steps without progress after which rounding allows no more."""


class _Direction(NamedTuple):
    """A Newton step."""

    s: Tensor
    zeta: Tensor
    cones: tuple[Tensor, Tensor]
    """Of (t, v) and of their multipliers."""
    pairs: Pairs
    """Of the loss."""


class CentralPath:
    """The iterates over m chosen groups: points v ``[m, d]``, slacks s and their multipliers zeta ``[n, m]``."""

    def __init__(self, program: ConvexProgram, chosen: Tensor, start: Tensor) -> None:
        self._program = program
        self._halves, self._columns = chosen.nonzero(as_tuple=True)
        sides = torch.where(self._halves == 0, 1.0, -1.0).to(program.x.dtype)
        self._maps = GroupMaps(program.x, program.active, self._columns, sides, is_smooth=program.loss.is_smooth)
        self._system = NewtonSystem(self._maps)
        self._signs = program.signs[:, self._columns]
        self._scale = resolution(program.objective(start), program.zero_objective)
        inward = _INWARD * self._scale / (len(self._columns) * program.beta)
        v = start[self._halves, self._columns] + inward * program.directions[self._columns]
        slacks = self._signs * (program.x @ v.T)
        self._s = slacks.clamp_min(max(float(slacks.abs().mean()), 1e-3 * float(program.x.norm(dim=1).mean())))
        f = self._maps.predictions(v)
        n_pairs = len(newton_term(program.loss, program.y, f, 1.0).pairs.primal)
        self._degree = self._s.numel() + len(v) + n_pairs
        mu = _FIRST_MU * self._scale / self._degree
        self._zeta = mu / self._s
        self._cones = NormCones(v, program.beta, mu)
        self._term = newton_term(program.loss, program.y, f, mu)
        self._n_steps, self._n_idle, self._has_failed = 0, 0, False
        self._best_error = float("inf")
        self._measure()

    @property
    def is_stuck(self) -> bool:
        """Whether more steps would not help; the path then stands at its best point."""
        return self._has_failed or self._n_steps >= _MOST_STEPS or self._n_idle > _PATIENCE

    def step(self) -> None:
        """One Newton step. The last one, when the path is stuck, goes back to the best point there was."""
        self._n_steps += 1
        try:
            self._step(self._residual)
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
            self._has_failed = True
        self._measure()
        if self.is_stuck:
            self._set_state(self._best)
            self._measure()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit on a path over the same groups."""
        return {
            "now": self._state(),
            "best": self._best,
            "best_error": self._best_error,
            "scale": self._scale,
            "counts": (self._n_steps, self._n_idle, self._has_failed),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._set_state([part.to(self._s) for part in state["now"]])
        self._scale = state["scale"]
        self._measure()
        self._best = [part.to(self._s) for part in state["best"]]
        self._best_error = state["best_error"]
        self._n_steps, self._n_idle, self._has_failed = state["counts"]

    def _measure(self) -> None:
        """Where the path stands: its residual and error, and whether it was ever better."""
        self._residual = self._stationarity()
        self.stationarity = float(self._residual.norm(dim=1).max()) / self._program.beta
        """Largest gradient of the Lagrangian over a group, over beta."""
        self.error = max(self._gap() / self._scale, self.stationarity)
        """The larger of stationarity and the products' sum over the objective: about the relative gap, once feasible."""
        self._n_idle += 1
        if self.error < self._best_error:
            self._best_error, self._best, self._n_idle = self.error, self._state(), 0

    def _state(self) -> list[Tensor]:
        return [self._s, self._zeta, self._cones.s, self._cones.z, *self._term.pairs]

    def _set_state(self, state: list[Tensor]) -> None:
        self._s, self._zeta, cone_s, cone_z, primal, dual = state
        self._cones.set_state(cone_s, cone_z)
        self._term.pairs = Pairs(primal, dual)

    def point(self) -> Tensor:
        """``[2, n_patterns, d]``."""
        v = self._cones.v
        u = torch.zeros(self._program.shape, dtype=v.dtype, device=v.device)
        u[self._halves, self._columns] = v
        return u

    def dual_point(self) -> Tensor:
        """r = -dl/df, ``[n]``."""
        return -self._term.slope(self._predictions())

    def multipliers(self) -> Tensor:
        """zeta of the chosen groups and zero for the others, ``[2, n, n_patterns]``."""
        zeta = torch.zeros(2, *self._program.active.shape, dtype=self._s.dtype, device=self._s.device)
        zeta[self._halves, :, self._columns] = self._zeta.T
        return zeta

    def _predictions(self) -> Tensor:
        return self._maps.predictions(self._cones.v)

    def _gap(self) -> float:
        pairs = self._term.pairs
        return float((self._s * self._zeta).sum() + pairs.primal @ pairs.dual) + self._cones.gap

    def _stationarity(self) -> Tensor:
        """Gradient of the Lagrangian in v, ``[m, d]``."""
        pull = self._maps.adjoint(self._term.slope(self._predictions())) + self._cones.gradient
        return pull - (self._signs * self._zeta).T @ self._program.x

    def _step(self, residual: Tensor) -> None:
        """Mehrotra's: a step towards mu = 0 says how much centring is due and corrects for its own curvature."""
        nothing = torch.zeros_like(self._term.pairs.primal)
        _, curvature = self._term.linearised(self._predictions(), nothing)
        blocks = weighted_grams(self._program.x, self._zeta / self._s) + self._cones.curvature
        self._system.factor(blocks, curvature)
        ahead = self._direction(residual, 1.0, torch.zeros_like(self._s), nothing, self._cones.pull(0.0, None))
        centring = (1 - self._length(ahead)) ** 3
        mu = centring * self._gap() / self._degree
        pair_target = mu - ahead.pairs.primal * ahead.pairs.dual
        pull = self._cones.pull(mu, self._cones.correction(*ahead.cones))
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
        self._s = self._s + length * step.s
        self._zeta = self._zeta + length * step.zeta
        self._cones.move(*step.cones, length)
        self._term.pairs = self._term.pairs.moved(step.pairs, length)

    def _outliers(self, step: _Direction, length: float, mu: float) -> Tensor:
        """How far products after a step would lie from [mu / 10, 10 mu]: Gondzio's correction, which lets steps be longer."""
        products = (self._s + length * step.s) * (self._zeta + length * step.zeta)
        return (products.clamp(0.1 * mu, 10 * mu) - products).clamp_min(-10 * mu)

    def _direction(
        self, residual: Tensor, share: float, target: Tensor, pair_target: Tensor, pull: Tensor
    ) -> _Direction:
        """The Newton step that removes a share of the residuals and brings the products to their targets."""
        x, signs, s, zeta = self._program.x, self._signs, self._s, self._zeta
        infeasible = share * (s - signs * (x @ self._cones.v.T))
        f = self._predictions()
        slope, _ = self._term.linearised(f, pair_target)
        right = (signs * ((target - s * zeta + zeta * infeasible) / s)).T @ x
        right -= share * residual + self._maps.adjoint(slope - self._term.slope(f)) + self._cones.constant(pull)
        dv = self._system.solve(right)
        ds = signs * (x @ dv.T) - infeasible
        dzeta = (target - zeta * ds) / s - zeta
        dpairs = self._term.change(self._maps.predictions(dv), pair_target)
        return _Direction(ds, dzeta, self._cones.change(dv, pull), dpairs)

    def _length(self, step: _Direction) -> float:
        """How far along a step everything stays positive, 1 at most."""
        longest = min(
            to_boundary(self._s, step.s),
            to_boundary(self._zeta, step.zeta),
            self._cones.longest_step(*step.cones),
            self._term.pairs.longest_step(step.pairs),
        )
        return min(1.0, TO_BOUNDARY * longest)
