"""From a solver's rough point to the optimum: the central path on the groups that are on, step by step, with a certificate.

Groups whose dual constraint is violated at the end of a path are added, and another one is followed: the groups chosen at first
decide the time it takes and not the result.
"""

from typing import Any, NamedTuple

from torch import Tensor

from twolayer.certificate import Certificate, resolution
from twolayer.convex.program import ConvexProgram
from twolayer.interior.central_path import CentralPath
from twolayer.interior.newton_system import plan_of

_MOST_ROUNDS = 10
_MOST_WORK = 4e12
"""Multiplications of the largest Newton system factored: a minute on a few cores, and some thirty of them."""
_THINNING = 0.2
"""Share of the tolerance that leaving out small groups may cost."""
_NEAR = 1.0
"""Error below which a point on the path is worth a certificate."""


def can_polish(program: ConvexProgram, start: Tensor) -> bool:
    """Whether the groups of a start that are on make a Newton system small enough to solve."""
    is_on = start.norm(dim=2) > 0
    n, d = program.x.shape
    n_groups, n_patterns = int(is_on.sum()), int(is_on.any(dim=0).sum())
    plan = plan_of(n, d, n_groups=n_groups, n_patterns=n_patterns, is_smooth=program.loss.is_smooth)
    return plan.work <= _MOST_WORK


class Certified(NamedTuple):
    """A point and what it proves."""

    u: Tensor
    """``[2, n_patterns, d]``."""
    certificate: Certificate


class Polish:
    """Towards the optimum to a relative gap of ``tolerance``, from the groups of ``start [2, n_patterns, d]`` that are not zero.

    ``is_finished`` says when there is no more to do: the gap is reached, or rounds of adding groups or rounding ended before.
    """

    def __init__(self, program: ConvexProgram, start: Tensor, *, tolerance: float) -> None:
        self._program, self._tolerance = program, tolerance
        chosen = start.norm(dim=2) > 0
        if not bool(chosen.any()):
            chosen[:, 0] = True
        self._n_rounds = 0
        self.is_finished = False
        self._begin(chosen, start)

    @property
    def point(self) -> Tensor:
        """``[2, n_patterns, d]``: where the path stands."""
        return self._path.point()

    @property
    def stationarity(self) -> float:
        """Of the path, see `CentralPath`."""
        return self._path.stationarity

    def step(self) -> Certified | None:
        """One Newton step, and at the end of a path the choice of the next one's groups; certifies points near the optimum."""
        path = self._path
        path.step()
        if path.error > _NEAR and not path.is_stuck:
            return None
        found, _ = self._certify(may_project=~self._chosen)
        is_at_end = path.error <= self._tolerance / 3 or path.is_stuck
        return self._end_round() if is_at_end and not self.is_finished else found

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        return {
            "chosen": self._chosen,
            "n_rounds": self._n_rounds,
            "is_finished": self.is_finished,
            "path": self._path.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`, whatever the start was."""
        self._begin(state["chosen"].to(self._program.x.device), self._program.x.new_zeros(self._program.shape))
        self._path.load_state_dict(state["path"])
        self._n_rounds, self.is_finished = state["n_rounds"], state["is_finished"]

    def _begin(self, chosen: Tensor, start: Tensor) -> None:
        self._chosen = chosen
        self._path = CentralPath(self._program, chosen, start)

    def _end_round(self) -> Certified:
        self._n_rounds += 1
        found, slopes = self._certify()
        violators = ~self._chosen & (slopes > self._program.beta)
        if self._n_rounds == _MOST_ROUNDS or not bool(violators.any()):
            self.is_finished = True
        if not self.is_finished:
            self._begin((found.u.norm(dim=2) > 0) | violators, found.u)
        return found

    def _certify(self, *, may_project: Tensor | None = None) -> tuple[Certified, Tensor]:
        """The path's point, which finishes the polish if it is good enough, and its dual slopes ``[2, n_patterns]``."""
        program, r = self._program, self._path.dual_point()
        slopes = program.dual_slopes(r, self._path.multipliers(), may_project=may_project)
        point = self.point
        allowance = _THINNING * self._tolerance * resolution(program.objective(point), program.zero_objective)
        u = program.without_small_groups(point, allowance)
        certificate = program.certificate(u, r, slopes)
        self.is_finished = certificate.relative_gap <= self._tolerance
        return Certified(u, certificate), slopes
