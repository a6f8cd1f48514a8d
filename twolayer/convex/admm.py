"""ADMM for the convex program, with a polish that ends it (Bai, Gautam and Sojoudi 2022; polish as in OSQP).

Split z = F u, v = u, s = G u with G u = E_i X u_i, scaled duals a, b, c; one iteration is

    u <- argmin |F u - z + a|^2 + |u - v + b|^2 + |G u - s + c|^2      (see `linear_step`)
    z <- prox_{l / rho}(F u + a),   v_i <- (1 - beta / (rho |u_i + b_i|))_+ (u_i + b_i),   s <- (G u + c)_+
    a += F u - z,   b += u - v,   c += G u - s

with over-relaxation and residual balancing. After 50, 100, 200, ... iterations the point is certified. Where the program is
small enough Newton steps on its groups follow instead (`polish`), which is how a relative gap of 1e-4 and less is reached
without the thousands of iterations that ADMM alone takes; if they do not reach it, ADMM goes on where it stood.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from twolayer.certificate import Certificate
from twolayer.convex.linear_step import ExactStep, LinearStep
from twolayer.convex.program import ConvexProgram
from twolayer.interior.polish import Polish, can_polish
from twolayer.network import Network

RELAXATION = 1.6
_BALANCE_EVERY = 20
_BALANCE_RATIO = 4.0
_BALANCE_STEP = 2.0
_FIRST_CERTIFICATE = 50


class _Copies(NamedTuple):
    """The split variables, or their scaled duals."""

    z: Tensor
    """``[n]``."""
    v: Tensor
    """``[2, n_patterns, d]``."""
    s: Tensor
    """``[2, n, n_patterns]``."""


class ADMM:
    """A learner: each `step` is one iteration on the whole program, of ADMM or of its polish; see the module for the formulas.

    Args:
        program: what to solve.
        tolerance: relative gap that the polish aims at.
        linear_step: how u is found; `ExactStep` unless given. A path of beta may share one.
        rho: penalty at the start; residual balancing moves it.
        start: u ``[2, n_patterns, d]`` to warm-start from, the optimum at a nearby beta say.
        with_polish: false leaves ADMM alone, for comparison.
    """

    def __init__(
        self,
        program: ConvexProgram,
        *,
        tolerance: float = 1e-4,
        linear_step: LinearStep | None = None,
        rho: float = 0.1,
        start: Tensor | None = None,
        with_polish: bool = True,
    ) -> None:
        if not rho > 0:
            raise ValueError(f"rho is {rho}; the penalty must be more than 0")
        if not tolerance > 0:
            raise ValueError(f"tolerance is {tolerance}; the relative gap to reach must be more than 0")
        self.program = program
        self.rho = rho
        self.step_number = 0
        self._n_iterations = 0
        self._polish: Polish | None = None
        self._tolerance = tolerance
        self._with_polish = with_polish
        self._linear_step = ExactStep(program) if linear_step is None else linear_step
        u = torch.zeros(program.shape, dtype=program.x.dtype, device=program.x.device) if start is None else start
        self._linear_step.restart(u)
        self._copies = _Copies(program.predictions(u), u.clone(), program.slacks(u).clamp_min(0))
        self._duals = _Copies(*(torch.zeros_like(copy) for copy in self._copies))
        self.solution = program.feasible(u)
        """``[2, n_patterns, d]``: the best point certified, inside its cones."""
        r = -program.loss.slope(self._copies.z, program.y)
        nothing = torch.zeros(program.shape[:2], dtype=torch.bool, device=u.device)
        self.certificate = program.certificate(u, r, program.dual_slopes(r, may_project=nothing))
        """Of `solution`, with the best lower bound found."""

    @property
    def point(self) -> Tensor:
        """``[2, n_patterns, d]``: where the solver stands, exactly zero in groups that are off; not quite inside its cones."""
        return self._copies.v if self._polish is None else self._polish.point

    @property
    def objective(self) -> float:
        """Of the best point certified."""
        return self.certificate.objective

    def network(self) -> Network:
        """The network of `solution`."""
        return self.program.network(self.solution)

    def step(self, batch: object = None) -> dict[str, Tensor | float]:
        """One iteration. ``loss`` is the objective at `point`; gap and objective are those of the best certificate so far.

        ``primal_residual`` and ``dual_residual`` are ADMM's, relative, or while the polish is at work its stationarity.
        """
        if self._polish is not None and not self._polish.is_finished:
            residuals = self._polish_step(self._polish)
        else:
            self._polish = None
            residuals = self._admm_step()
            if _is_doubling(self._n_iterations):
                self._certify()
        self.step_number += 1
        point = self.point
        return {
            "loss": self.program.objective(point),
            "violation": self.program.violation(point),
            "objective": self.certificate.objective,
            "relative_gap": self.certificate.relative_gap,
            **residuals,
            "rho": self.rho,
        }

    def _admm_step(self) -> dict[str, float]:
        program = self.program
        u = self._linear_step.solve(
            program, *(copy - dual for copy, dual in zip(self._copies, self._duals, strict=True))
        )
        image = _Copies(program.predictions(u), u, program.slacks(u))
        before = self._copies
        relaxed = _Copies(*(RELAXATION * new + (1 - RELAXATION) * old for new, old in zip(image, before, strict=True)))
        moved = _Copies(*(new + dual for new, dual in zip(relaxed, self._duals, strict=True)))
        self._copies = _Copies(
            program.loss.prox(moved.z, program.y, 1 / self.rho),
            shrink_groups(moved.v, program.beta / self.rho),
            moved.s.clamp_min(0),
        )
        self._duals = _Copies(*(new - copy for new, copy in zip(moved, self._copies, strict=True)))
        self._n_iterations += 1
        primal, dual = self._residuals(image, before)
        if self._n_iterations % _BALANCE_EVERY == 0:
            self._balance(primal, dual)
        return {"primal_residual": primal, "dual_residual": dual}

    def _polish_step(self, polish: Polish) -> dict[str, float]:
        found = polish.step()
        if found is not None:
            self._keep(found.u, found.certificate)
        return {"primal_residual": polish.stationarity, "dual_residual": polish.stationarity}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        return {
            "copies": list(self._copies),
            "duals": list(self._duals),
            "rho": self.rho,
            "step_number": self.step_number,
            "n_iterations": self._n_iterations,
            "polish": None if self._polish is None else self._polish.state_dict(),
            "solution": self.solution,
            "certificate": list(self.certificate),
            "linear_step": self._linear_step.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        device = self.program.x.device
        self._copies = _Copies(*(copy.to(device) for copy in state["copies"]))
        self._duals = _Copies(*(dual.to(device) for dual in state["duals"]))
        self.rho, self.step_number, self._n_iterations = state["rho"], state["step_number"], state["n_iterations"]
        self._polish = None
        if state["polish"] is not None:
            self._polish = Polish(self.program, self.solution, tolerance=self._tolerance)
            self._polish.load_state_dict(state["polish"])
        self.solution = state["solution"].to(device)
        self.certificate = Certificate(*state["certificate"])
        self._linear_step.load_state_dict(state["linear_step"])

    def _certify(self) -> None:
        """Begin a polish, or where the program is too large for one certify the point as it is."""
        program = self.program
        if self._with_polish and can_polish(program, self.point):
            self._polish = Polish(program, self.point, tolerance=self._tolerance)
        else:
            r = -self.rho * self._duals.z
            slopes = program.dual_slopes(r, -self.rho * self._duals.s)
            self._keep(self.point, program.certificate(self.point, r, slopes))

    def _keep(self, u: Tensor, found: Certificate) -> None:
        """The best point and the best bound known, whichever certificates they came from."""
        if found.objective < self.certificate.objective:
            self.solution = self.program.feasible(u)
        self.certificate = self.certificate.best_with(found)

    def _residuals(self, image: _Copies, before: _Copies) -> tuple[float, float]:
        primal = _distance(image, self._copies) / max(_size(image), _size(self._copies), 1e-300)
        dual = _distance(self._copies, before) / max(_size(self._duals), 1e-300)
        return primal, dual

    def _balance(self, primal: float, dual: float) -> None:
        """Residual balancing (Boyd et al. 2011, section 3.4.1, on relative residuals)."""
        factor = 1.0
        if primal > _BALANCE_RATIO * dual:
            factor = _BALANCE_STEP
        elif dual > _BALANCE_RATIO * primal:
            factor = 1 / _BALANCE_STEP
        self.rho *= factor
        self._duals = _Copies(*(dual / factor for dual in self._duals))


def shrink_groups(v: Tensor, amount: float) -> Tensor:
    """The proximal map of amount * sum |v_i| over the last dimension, exactly zero where |v_i| <= amount."""
    norms = v.norm(dim=-1, keepdim=True)
    return torch.where(norms > amount, 1 - amount / norms, 0.0) * v


def _is_doubling(step: int) -> bool:
    """Whether step is 50 times a power of two."""
    times, rest = divmod(step, _FIRST_CERTIFICATE)
    return rest == 0 and times > 0 and times & (times - 1) == 0


def _distance(a: _Copies, b: _Copies) -> float:
    return sum(float((left - right).square().sum()) for left, right in zip(a, b, strict=True)) ** 0.5


def _size(a: _Copies) -> float:
    return sum(float(part.square().sum()) for part in a) ** 0.5
