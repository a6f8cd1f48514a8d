"""ADMM for robust training (Bai, Gautam and Sojoudi 2022; the program is in `twolayer.robust.program`).

Split Z = T u (one row of d numbers per data row), v = u, and (p, s) = (u, E X u) in {s >= epsilon |p|_1}. T'T and X'X act on
different axes of q = v - w, so the linear step is exact in their eigenvectors.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from twolayer.certificate import Certificate, certificate_of
from twolayer.convex.admm import RELAXATION, shrink_groups
from twolayer.network import Network
from twolayer.robust.program import RobustProgram
from twolayer.robust.prox import RobustDual, project_robust_cones, prox_worst_loss

_CERTIFY_EVERY = 50


class _Copies(NamedTuple):
    """The split variables, or their scaled duals."""

    z: Tensor
    """``[n, d]``."""
    v: Tensor
    p: Tensor
    """``[2, n_patterns, d]`` both."""
    s: Tensor
    """``[2, n, n_patterns]``."""


class RobustADMM:
    """A learner: each `step` is one iteration.

    Args:
        program: what to solve.
        rho: penalty; 0.4 sqrt(beta), which was best over a grid of losses and betas, unless given.
    """

    def __init__(self, program: RobustProgram, *, rho: float | None = None) -> None:
        self.rho: float = 0.4 * program.beta**0.5 if rho is None else rho
        if not self.rho > 0:
            raise ValueError(f"rho is {self.rho}; the penalty must be more than 0")
        self.program = program
        self.step_number = 0
        x, active = program.x, program.active
        self._of_x = torch.linalg.eigh(x.T @ x)
        self._of_patterns = torch.linalg.eigh(active.T @ active)
        zero = torch.zeros(program.shape, dtype=x.dtype, device=x.device)
        self._copies = _Copies(torch.zeros_like(x), zero, zero, torch.zeros_like(program.slacks(zero)))
        self._duals = _Copies(*(torch.zeros_like(copy) for copy in self._copies))
        self.solution = zero
        """``[2, n_patterns, d]``: the best point certified, inside its cones."""
        self.certificate = certificate_of(program.objective(zero), 0.0, 0.0, program.zero_objective)
        """Of `solution`; losses are never negative, so 0 is a bound."""

    @property
    def objective(self) -> float:
        """Of the best point certified."""
        return self.certificate.objective

    def network(self) -> Network:
        """The network of `solution`."""
        return self.program.network(self.solution)

    def step(self, batch: object = None) -> dict[str, Tensor | float]:
        """One iteration."""
        program = self.program
        u = self._linear_step(*(copy - dual for copy, dual in zip(self._copies, self._duals, strict=True)))
        image = _Copies(program.slopes(u), u, u, program.slacks(u))
        before = self._copies
        moved = _Copies(
            *(
                RELAXATION * new + (1 - RELAXATION) * old + dual
                for new, old, dual in zip(image, before, self._duals, strict=True)
            )
        )
        z, dual = prox_worst_loss(
            program.loss, moved.z, program.x, program.y, epsilon=program.epsilon, step=1 / self.rho
        )
        p, s = project_robust_cones(moved.p, moved.s, program.epsilon)
        self._copies = _Copies(z, shrink_groups(moved.v, program.beta / self.rho), p, s)
        self._duals = _Copies(*(new - copy for new, copy in zip(moved, self._copies, strict=True)))
        self.step_number += 1
        if self.step_number % _CERTIFY_EVERY == 0:
            self._certify(dual)
        return {
            "loss": program.objective(self._copies.v),
            "violation": program.violation(self._copies.v),
            "objective": self.certificate.objective,
            "relative_gap": self.certificate.relative_gap,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        return {
            "copies": list(self._copies),
            "duals": list(self._duals),
            "step_number": self.step_number,
            "solution": self.solution,
            "certificate": list(self.certificate),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        device = self.program.x.device
        self._copies = _Copies(*(copy.to(device) for copy in state["copies"]))
        self._duals = _Copies(*(dual.to(device) for dual in state["duals"]))
        self.step_number = state["step_number"]
        self.solution = state["solution"].to(device)
        self.certificate = Certificate(*state["certificate"])

    def _linear_step(self, z: Tensor, v: Tensor, p: Tensor, s: Tensor) -> Tensor:
        """u of least |T u - z|^2 + |u - v|^2 + |u - p|^2 + |G u - s|^2."""
        right = v + p + self.program.slacks_adjoint(s)
        total = right[0] + right[1]
        difference = right[0] - right[1] + 2 * self.program.slopes_adjoint(z)
        of_x, axes = self._of_x
        of_patterns, mixes = self._of_patterns
        total = (total @ axes) / (2 + of_x) @ axes.T
        difference = mixes.T @ difference @ axes / (2 + of_x + 2 * of_patterns[:, None])
        difference = mixes @ difference @ axes.T
        return torch.stack([(total + difference) / 2, (total - difference) / 2])

    def _certify(self, dual: RobustDual) -> None:
        """Keep the best point and the best bound; the multipliers are rho times the scaled duals."""
        program = self.program
        pull = -program.slopes_adjoint(self.rho * self._duals.z)
        polar = self.rho * (self._duals.p + program.slacks_adjoint(self._duals.s))
        found = program.certificate(self._copies.v, pull, polar, dual)
        if found.objective < self.certificate.objective:
            self.solution = program.feasible(self._copies.v)
        self.certificate = self.certificate.best_with(found)
