"""What a solver proves of a point."""

from typing import NamedTuple


class Certificate(NamedTuple):
    """How good a point is, proved; an infeasible one scores below the optimum, so read both numbers."""

    objective: float
    """Of the point moved inside its cones: an upper bound on the optimum."""
    lower_bound: float
    """Dual value of a dual-feasible point."""
    relative_gap: float
    """(objective - lower_bound) / max(1, |objective|): at least the relative distance from the optimum."""
    violation: float
    """Largest amount by which the point itself leaves a cone, over the largest |X_k||u_i|."""

    def best_with(self, other: "Certificate") -> "Certificate":
        """The lower objective, with its violation, and the higher bound of two certificates of one program."""
        better = self if self.objective <= other.objective else other
        return certificate_of(better.objective, max(self.lower_bound, other.lower_bound), better.violation)


def certificate_of(objective: float, lower_bound: float, violation: float) -> Certificate:
    """The certificate that an upper and a lower bound make."""
    return Certificate(objective, lower_bound, (objective - lower_bound) / max(1.0, abs(objective)), violation)
