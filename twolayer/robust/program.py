"""The convex program of training against every perturbation of the rows inside an l-infinity ball, and its own certificate.

With rows x_k + delta, |delta|_inf <= epsilon, and neurons kept on one side of every ball, E_i X v_i >= epsilon |v_i|_1, the
network is linear on each ball, f = T_k . (x_k + delta) with T_k = sum_i d_ik (v_i - w_i), so the worst prediction is
f -+ R_k, R_k = epsilon |T_k|_1 (Bai, Gautam and Sojoudi 2022):

    hinge, logistic: margin y f - R,        squared: 1/2 (|f - y| + R)^2,        plus beta sum (|v_i| + |w_i|).

The value bounds adversarial training over all networks from above: neurons may not bend inside a ball.
"""

import numpy as np
import torch
from torch import Tensor

from twolayer.certificate import Certificate, certificate_of
from twolayer.config import LossName
from twolayer.convex.patterns import Patterns
from twolayer.convex.program import SIGNS, PatternMaps
from twolayer.robust.prox import RobustDual


class RobustProgram(PatternMaps):
    """The convex program of robust training; at epsilon 0 its value is that of `ConvexProgram`.

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
        return self.relative_violation(self.margins(u), u)

    def feasible(self, u: Tensor) -> Tensor:
        """Margins are concave, so adding -margin(u) / margin(centre) of the cone's centre is enough."""
        inward = self.margins(torch.stack([self.directions] * 2))
        needed = (-self.margins(u) / inward).clamp_min(0)
        is_on = u.norm(dim=2) > 0
        return torch.where(is_on[..., None], u + needed[..., None] * self.directions, 0.0)

    def certificate(self, u: Tensor, pull: Tensor, polar: Tensor, dual: RobustDual) -> Certificate:
        """Upper bound from u moved inside its cones, lower bound from a row's multipliers scaled until they are feasible.

        No v in a robust cone gains more than |-+pull - w| |v| for a w in the polar of the cone, so the multipliers are
        scaled until the smaller of |pull| and |pull - w| is beta at most.

        Args:
            pull: T'L of the multipliers' subgradients L, ``[n_patterns, d]``.
            polar: w, of the shape of a point.
            dual: the multipliers.
        """
        c = torch.stack([sign * pull for sign in SIGNS])
        largest = float(torch.minimum(c.norm(dim=2), (c - polar).norm(dim=2)).max())
        lower = dual.bound(self.loss, self.y, self.beta / largest if largest > 0 else float("inf"))
        return certificate_of(self.objective(self.feasible(u)), lower, self.violation(u), self.zero_objective)


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
