"""Training against every perturbation of the rows inside an l-infinity ball, as a convex program solved by ADMM.

With rows x_k + delta, |delta|_inf <= epsilon, and neurons kept on one side of every ball, E_i X v_i >= epsilon |v_i|_1, the
network is linear on each ball, f = T_k . (x_k + delta) with T_k = sum_i d_ik (v_i - w_i), so the worst prediction is
f -+ R_k, R_k = epsilon |T_k|_1 (Bai, Gautam and Sojoudi 2022):

    hinge, logistic: margin y f - R,        squared: 1/2 (|f - y| + R)^2,        plus beta sum (|v_i| + |w_i|).

ADMM splits Z = T u (one row of d numbers per data row), v = u, and (p, s) = (u, E X u) in {s >= epsilon |p|_1}. T'T and X'X
act on different axes of q = v - w, so the linear step is exact in their eigenvectors. The value bounds adversarial training
over all networks from above: neurons may not bend inside a ball.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from twolayer.convex.admm import RELAXATION, shrink_groups
from twolayer.losses import LossName
from twolayer.network import Network
from twolayer.convex.patterns import Patterns
from twolayer.convex.program import Certificate, ConvexProgram, certificate_of
from twolayer.robust.prox import RobustDual, project_robust_cones, prox_worst_loss

_CERTIFY_EVERY = 50
_SIGNS = (1.0, -1.0)


class RobustProgram(ConvexProgram):
    """The convex program of robust training; at epsilon 0 it is `ConvexProgram`.

    Patterns whose robust cone {v : E X v >= epsilon |v|_1} has no interior could only be off: they are left out, and
    ``n_without_interior`` counts them.

    Args:
        epsilon: radius of the balls in the units of ``x``, 0 or more.
    """

    def __init__(
        self, x: Tensor, y: Tensor, patterns: Patterns, *, beta: float, loss: LossName, epsilon: float
    ) -> None:
        if not epsilon >= 0:
            raise ValueError(f"epsilon is {epsilon}; the radius of a perturbation is 0 or more")
        centres, has_interior = robust_directions(x, patterns, epsilon)
        if not bool(has_interior.any()):
            raise ValueError(
                f"epsilon is {epsilon}: none of the {len(has_interior)} activation patterns keeps its sign on every ball "
                "of that radius, so only the zero network is robust; lower epsilon or sample more patterns"
            )
        kept = Patterns(patterns.active[:, has_interior], centres[has_interior])
        super().__init__(x, y, kept, beta=beta, loss=loss)
        self.directions = kept.directions
        self.epsilon = epsilon
        self.n_without_interior = int((~has_interior).sum())

    def slopes(self, u: Tensor) -> Tensor:
        """T, the network's gradient on each row's ball, ``[n, d]``."""
        return self.active @ (u[0] - u[1])

    def slopes_adjoint(self, z: Tensor) -> Tensor:
        """``[n_patterns, d]``: the half of T' z that belongs to v; that of w is its negative."""
        return self.active.T @ z

    def objective(self, u: Tensor) -> float:
        """Worst-case loss plus regularisation."""
        slopes = self.slopes(u)
        predictions = (self.x * slopes).sum(dim=1)
        radius = self.epsilon * slopes.abs().sum(dim=1)
        direction = -self.y if self.loss.is_classification else torch.where(predictions >= self.y, 1.0, -1.0)
        worst = self.loss.value(predictions + direction * radius, self.y)
        return float(worst + self.beta * u.norm(dim=2).sum())

    def margins(self, u: Tensor) -> Tensor:
        """min_k E X u_i - epsilon |u_i|_1 for each group, ``[2, n_patterns]``: 0 or more inside the robust cone."""
        return self.slacks(u).amin(dim=1) - self.epsilon * u.abs().sum(dim=2)

    def violation(self, u: Tensor) -> float:
        """Largest amount by which a robust cone is left, over the largest |X_k||u_i|."""
        scale = float(self.x.norm(dim=1).max() * u.norm(dim=2).max())
        return float((-self.margins(u)).clamp_min(0).max()) / scale if scale > 0 else 0.0

    def feasible(self, u: Tensor) -> Tensor:
        """Margins are concave, so adding -margin(u) / margin(centre) of the cone's centre is enough."""
        inward = self.margins(torch.stack([self.directions] * 2))
        needed = (-self.margins(u) / inward).clamp_min(0)
        is_on = u.norm(dim=2) > 0
        return torch.where(is_on[..., None], u + needed[..., None] * self.directions, 0.0)


def robust_directions(x: Tensor, patterns: Patterns, epsilon: float) -> tuple[Tensor, Tensor]:
    """A unit vector deep inside each robust cone ``[n_patterns, d]``, and whether there is one ``[n_patterns]``.

    A linear program per pattern: max tau over |a|_inf <= 1 with E X a - epsilon |a|_1 >= tau |x_k|.
    """
    from scipy.optimize import linprog

    rows = x[x.norm(dim=1) > 0].numpy(force=True)
    active = patterns.active[x.norm(dim=1) > 0].numpy(force=True)
    n, d = rows.shape
    cost = np.zeros(2 * d + 1)
    cost[-1] = -1.0
    lengths = np.linalg.norm(rows, axis=1)[:, None]
    magnitude = np.block([[np.eye(d), -np.eye(d), np.zeros((d, 1))], [-np.eye(d), -np.eye(d), np.zeros((d, 1))]])
    directions = patterns.directions.clone()
    has_interior = torch.zeros(len(directions), dtype=torch.bool, device=x.device)
    bounds = [(-1, 1)] * d + [(0, 1)] * d + [(None, None)]
    for i in range(len(directions)):
        signs = np.where(active[:, i], 1.0, -1.0)[:, None]
        cones = np.hstack([-signs * rows, np.full((n, d), epsilon), lengths])
        limits = np.vstack([cones, magnitude])
        solved = linprog(cost, A_ub=limits, b_ub=np.zeros(len(limits)), bounds=bounds, method="highs")
        if solved.success and solved.x[-1] > 1e-9:
            direction = torch.from_numpy(solved.x[:d]).to(x)
            directions[i] = direction / direction.norm()
            has_interior[i] = True
    return directions, has_interior


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
        self.certificate = certificate_of(program.objective(zero), 0.0, 0.0)
        """Of `solution`; losses are never negative, so 0 is a bound."""

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
        """Keep the best point and the best bound.

        With L = rho times the dual of Z, a row's subgradient, and w = rho (dual of p + E X' dual of s), which is in the polar
        of the robust cone, no v in the cone gains more than |-+T'L - w| |v|.
        """
        program = self.program
        pull = -program.slopes_adjoint(self.rho * self._duals.z)
        c = torch.stack([sign * pull for sign in _SIGNS])
        polar = self.rho * (self._duals.p + program.slacks_adjoint(self._duals.s))
        largest = float(torch.minimum(c.norm(dim=2), (c - polar).norm(dim=2)).max())
        lower = dual.bound(program.loss, program.y, program.beta / largest if largest > 0 else float("inf"))
        u = program.feasible(self._copies.v)
        found = certificate_of(program.objective(u), lower, program.violation(self._copies.v))
        if found.objective < self.certificate.objective:
            self.solution = u
        self.certificate = self.certificate.best_with(found)
