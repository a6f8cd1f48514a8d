"""Points -> fronts, matched-L0 interpolation, dominance (docs/method.md, "Fronts and verdicts")."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.saes.documents import GroupSums

Array = NDArray[np.float64]

_GRID_POINTS = 201


@dataclass(frozen=True, eq=False)
class Sweep:
    """One architecture on one hookpoint: a value for every (seed, lambda), ``[n_seeds, n_coefficients]`` each."""

    l0: Array
    r_squared: Array
    dead_fraction: Array
    d_sae: int
    loss_recovered: Array | None = None
    """None where it was not measured of all of them."""
    seeds: tuple[int, ...] = ()
    """Their numbers; sweeps that have the same ones are compared seed by seed."""
    documents: GroupSums | None = None
    """What documents add; None where they are not known."""

    @property
    def n_seeds(self) -> int:
        return len(self.l0)

    @cached_property
    def front(self) -> "Curve":
        """`mean_front`."""
        return mean_front(self)


class Curve(NamedTuple):
    """A value along L0, piecewise linear in log L0 between the points, never extrapolated."""

    l0: Array
    """Ascending."""
    value: Array

    def at(self, l0: float | Array) -> Array:
        """Value at ``l0``; NaN outside the swept range."""
        if not len(self.l0):
            return np.full_like(np.asarray(l0, dtype=np.float64), np.nan)
        return np.interp(np.log(l0), np.log(self.l0), self.value, left=np.nan, right=np.nan)


class Gap(NamedTuple):
    """R2_A - R2_B along the L0 overlap of the two seed-mean fronts."""

    l0_low: float
    l0_high: float
    minimum: float
    maximum: float
    mean: float
    share_positive: float
    """Share of the overlap (in log L0) where the gap is positive."""

    @property
    def dominates(self) -> bool:
        """A lies above B everywhere on the overlap."""
        return self.minimum > 0


def pareto_front(l0: Array, r_squared: Array) -> NDArray[np.int64]:
    """Indices, by ascending L0, of the points that no other point beats (lower or equal L0 and higher R2)."""
    order = np.lexsort((-r_squared, l0))
    kept, best = [], -np.inf
    for index in order:
        if r_squared[index] > best:
            kept.append(index)
            best = r_squared[index]
    return np.asarray(kept, dtype=np.int64)


def mean_front(sweep: Sweep) -> Curve:
    """The Pareto front of the seed means (of L0 and of R2 at each lambda)."""
    l0, r_squared = sweep.l0.mean(axis=0), sweep.r_squared.mean(axis=0)
    alive = l0 > 0
    front = pareto_front(l0[alive], r_squared[alive])
    return Curve(l0[alive][front], r_squared[alive][front])


def mean_curve(sweep: Sweep, values: Array) -> Curve:
    """Seed means of ``values [n_seeds, n_coefficients]`` along seed-mean L0."""
    l0 = sweep.l0.mean(axis=0)
    alive = l0 > 0
    order = np.argsort(l0[alive])
    return Curve(l0[alive][order], values.mean(axis=0)[alive][order])


def gap(a: Sweep, b: Sweep) -> Gap | None:
    """How far A lies above B; None when their L0 ranges do not overlap."""
    overlap = _overlap(a.front, b.front)
    if overlap is None:
        return None
    along = _along(a, b, overlap)
    return Gap(
        l0_low=overlap[0],
        l0_high=overlap[1],
        minimum=float(along.min()),
        maximum=float(along.max()),
        mean=float(along.mean()),
        share_positive=float((along > 0).mean()),
    )


def dead_fraction_ratio(a: Sweep, b: Sweep) -> float | None:
    """Geometric mean over the sweep of dead fraction A / dead fraction B at equal L0.

    None without overlap, and when neither has a dead latent. A dead fraction of zero counts as half a latent otherwise.
    Evaluated at the seed-mean L0 of A's points inside B's range.
    """
    curve_a, curve_b = mean_curve(a, a.dead_fraction), mean_curve(b, b.dead_fraction)
    at_b = curve_b.at(curve_a.l0)
    inside = ~np.isnan(at_b)
    if not inside.any() or not (curve_a.value[inside].any() or at_b[inside].any()):
        return None
    dead_a = np.maximum(curve_a.value[inside], 0.5 / a.d_sae)
    dead_b = np.maximum(at_b[inside], 0.5 / b.d_sae)
    return float(np.exp(np.log(dead_a / dead_b).mean()))


def _overlap(a: Curve, b: Curve) -> tuple[float, float] | None:
    if len(a.l0) == 0 or len(b.l0) == 0:
        return None
    low, high = float(max(a.l0[0], b.l0[0])), float(min(a.l0[-1], b.l0[-1]))
    return (low, high) if low < high else None


def _along(a: Sweep, b: Sweep, overlap: tuple[float, float]) -> Array:
    """On a grid even in log L0, with both curves' own points, so that the minimum is the exact one."""
    knots = np.concatenate([a.front.l0, b.front.l0])
    inside = knots[(knots >= overlap[0]) & (knots <= overlap[1])]
    grid = np.union1d(np.geomspace(*overlap, _GRID_POINTS), inside)
    found = a.front.at(grid) - b.front.at(grid)
    return found[~np.isnan(found)]
