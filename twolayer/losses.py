"""The three losses of the convex programs, summed over rows: value, derivatives, proximal map and dual.

With f a prediction and y its label, r = -dl/df is the dual variable of a row, and -l*(-r) its dual value (Fenchel).
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

from twolayer.config import LossName

_NEWTON_STEPS = 30


class Loss(Protocol):
    """A convex loss; every tensor is ``[n]``."""

    is_classification: bool
    """Whether labels are -1 and 1."""
    is_smooth: bool
    """Whether it has a bounded curvature."""

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        """Sum of the rows' losses, a scalar."""
        ...

    def slope(self, f: Tensor, y: Tensor) -> Tensor:
        """dl/df; at a kink a value between both sides'."""
        ...

    def curvature(self, f: Tensor, y: Tensor) -> Tensor:
        """d2l/df2; 0 at a kink."""
        ...

    def prox(self, a: Tensor, y: Tensor, step: float) -> Tensor:
        """argmin_z l(z, y) + (z - a)^2 / (2 step)."""
        ...

    def dual_value(self, r: Tensor, y: Tensor) -> Tensor:
        """-l*(-r), a scalar: what the dual variables r prove as a lower bound, when they are feasible."""
        ...

    def best_scale(self, r: Tensor, y: Tensor, largest: float) -> float:
        """t in [0, largest] for which t r stays in the loss's domain and `dual_value` of it is highest, or nearly."""
        ...


class MarginLoss(Loss, Protocol):
    """A loss of labels -1 and 1 through the margin m = y f."""

    def margin_slope(self, margin: Tensor) -> Tensor:
        """-dl/dm, ``[n]``."""
        ...


class Squared:
    """1/2 (f - y)^2."""

    is_classification = False
    is_smooth = True

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (f - y).square().sum()

    def slope(self, f: Tensor, y: Tensor) -> Tensor:
        return f - y

    def curvature(self, f: Tensor, y: Tensor) -> Tensor:
        return torch.ones_like(f)

    def prox(self, a: Tensor, y: Tensor, step: float) -> Tensor:
        return (a + step * y) / (1 + step)

    def dual_value(self, r: Tensor, y: Tensor) -> Tensor:
        return r @ y - 0.5 * r @ r

    def best_scale(self, r: Tensor, y: Tensor, largest: float) -> float:
        size = float(r @ r)
        return min(max(float(r @ y) / size, 0.0), largest) if size > 0 else 0.0


class Logistic:
    """log(1 + exp(-y f))."""

    is_classification = True
    is_smooth = True

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        return softplus(-y * f).sum()

    def slope(self, f: Tensor, y: Tensor) -> Tensor:
        return -y * self.margin_slope(y * f)

    def curvature(self, f: Tensor, y: Tensor) -> Tensor:
        probability = torch.sigmoid(-y * f)
        return probability * (1 - probability)

    def prox(self, a: Tensor, y: Tensor, step: float) -> Tensor:
        """Newton inside the bracket [y a, y a + step] of the margin m = y z, where m - y a = step sigmoid(-m)."""
        low, high = y * a, y * a + step
        margin = (low + high) / 2
        for _ in range(_NEWTON_STEPS):
            probability = torch.sigmoid(-margin)
            slope = 1 + step * probability * (1 - probability)
            excess = margin - y * a - step * probability
            low, high = torch.where(excess < 0, margin, low), torch.where(excess < 0, high, margin)
            moved = margin - excess / slope
            is_inside = (moved >= low) & (moved <= high)
            following = torch.where(is_inside, moved, (low + high) / 2)
            if torch.equal(following, margin):
                break
            margin = following
        return y * margin

    def dual_value(self, r: Tensor, y: Tensor) -> Tensor:
        q = (y * r).clamp(0, 1)
        return -(torch.xlogy(q, q) + torch.xlogy(1 - q, 1 - q)).sum()

    def margin_slope(self, margin: Tensor) -> Tensor:
        return torch.sigmoid(-margin)

    def best_scale(self, r: Tensor, y: Tensor, largest: float) -> float:
        return min(1.0, largest)


class Hinge:
    """max(0, 1 - y f)."""

    is_classification = True
    is_smooth = False

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        return (1 - y * f).clamp_min(0).sum()

    def slope(self, f: Tensor, y: Tensor) -> Tensor:
        return -y * self.margin_slope(y * f)

    def curvature(self, f: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(f)

    def prox(self, a: Tensor, y: Tensor, step: float) -> Tensor:
        return a + y * (1 - y * a).clamp(0, step)

    def dual_value(self, r: Tensor, y: Tensor) -> Tensor:
        return (y * r).clamp(0, 1).sum()

    def margin_slope(self, margin: Tensor) -> Tensor:
        return (margin < 1).to(margin)

    def best_scale(self, r: Tensor, y: Tensor, largest: float) -> float:
        most = float((y * r).max()) if len(r) else 0.0
        return min(largest, 1 / most) if most > 0 else 0.0


LOSSES: dict[LossName, Loss] = {"squared": Squared(), "logistic": Logistic(), "hinge": Hinge()}
