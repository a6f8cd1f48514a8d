"""Points -> fronts, matched-L0 interpolation, dominance with uncertainty (docs/method.md, "Fronts and verdicts")."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_GRID_POINTS = 201
_BOOTSTRAP_DRAWS, _BOOTSTRAP_SEED = 1000, 0
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, eq=False)
class Sweep:
    """One architecture on one hookpoint: a value for every (seed, lambda)."""

    l0: Array
    """``[n_seeds, n_coefficients]``."""
    r_squared: Array
    """``[n_seeds, n_coefficients]``."""
    dead_fraction: Array
    """``[n_seeds, n_coefficients]``."""
    d_sae: int

    @property
    def n_seeds(self) -> int:
        return len(self.l0)

    @cached_property
    def front(self) -> "Curve":
        """`mean_front`."""
        return mean_front(self)

    @cached_property
    def resampled(self) -> "_Fronts":
        """Mean fronts of the bootstrap: sweeps of equally many seeds draw the same ones, since those share data order."""
        generator = np.random.default_rng([_BOOTSTRAP_SEED, self.n_seeds])
        return _fronts(self, generator.integers(self.n_seeds, size=(_BOOTSTRAP_DRAWS, self.n_seeds)))

    def of_seeds(self, seeds: Sequence[int] | NDArray[np.int64]) -> "Sweep":
        """The sweep with only these rows (repeats allowed)."""
        index = np.asarray(seeds)
        return Sweep(self.l0[index], self.r_squared[index], self.dead_fraction[index], self.d_sae)


class Curve(NamedTuple):
    """A value along L0, piecewise linear in log L0 between the points, never extrapolated."""

    l0: Array
    """Ascending."""
    value: Array

    def at(self, l0: float | Array) -> Array:
        """Value at ``l0``; NaN outside the swept range."""
        return np.interp(np.log(l0), np.log(self.l0), self.value, left=np.nan, right=np.nan)


class Dominance(NamedTuple):
    """The gap R2_A - R2_B along the L0 overlap of the two seed-mean fronts."""

    l0_low: float
    l0_high: float
    minimum: float
    maximum: float
    mean: float
    share_positive: float
    """Share of the overlap (in log L0) where the gap is positive."""
    interval: tuple[float, float] | None
    """95 % bootstrap interval of the minimum gap over seeds; None with a single seed."""

    @property
    def is_strict(self) -> bool:
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


def mean_dead_fraction(sweep: Sweep) -> Curve:
    """Seed-mean dead fraction along seed-mean L0."""
    l0, dead = sweep.l0.mean(axis=0), sweep.dead_fraction.mean(axis=0)
    alive = l0 > 0
    order = np.argsort(l0[alive])
    return Curve(l0[alive][order], dead[alive][order])


def dominance(a: Sweep, b: Sweep) -> Dominance | None:
    """How far A lies above B; None when their L0 ranges do not overlap.

    The interval resamples seeds with replacement, for A and B alike where they have the same number (their seeds share
    data order), independently otherwise.
    """
    overlap = _overlap(a.front, b.front)
    if overlap is None:
        return None
    gap = _gap(a, b, overlap)
    interval = None
    if min(a.n_seeds, b.n_seeds) > 1:
        minima = _smallest_gaps(a.resampled, b.resampled)
        if not np.isnan(minima).all():
            low, high = np.nanpercentile(minima, _INTERVAL)
            interval = (float(low), float(high))
    return Dominance(
        l0_low=overlap[0],
        l0_high=overlap[1],
        minimum=float(gap.min()),
        maximum=float(gap.max()),
        mean=float(gap.mean()),
        share_positive=float((gap > 0).mean()),
        interval=interval,
    )


def dead_fraction_ratio(a: Sweep, b: Sweep) -> float | None:
    """Geometric mean over the sweep of dead fraction A / dead fraction B at equal L0.

    None without overlap, and when neither has a dead latent. A dead fraction of zero counts as half a latent otherwise.
    Evaluated at the seed-mean L0 of A's points inside B's range.
    """
    curve_a, curve_b = mean_dead_fraction(a), mean_dead_fraction(b)
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


def _gap(a: Sweep, b: Sweep, overlap: tuple[float, float]) -> Array:
    """On a grid even in log L0, with both curves' own points, so that the minimum is the exact one."""
    front_a, front_b = a.front, b.front
    knots = np.concatenate([front_a.l0, front_b.l0])
    inside = knots[(knots >= overlap[0]) & (knots <= overlap[1])]
    grid = np.union1d(np.geomspace(*overlap, _GRID_POINTS), inside)
    gap = front_a.at(grid) - front_b.at(grid)
    return gap[~np.isnan(gap)]


class _Fronts(NamedTuple):
    """The mean fronts of many resampled sweeps; a front's points come first, what follows them is padding."""

    log_l0: Array
    """``[n_draws, n_coefficients]``, ascending; infinite in the padding."""
    value: Array
    """Of the same shape."""

    def at(self, log_l0: Array) -> Array:
        """Values ``[n_draws, n]`` of every front at its row of ``log_l0 [n_draws, n]``; NaN outside its range."""
        last = np.isfinite(self.log_l0).sum(axis=1, keepdims=True) - 1
        right = (self.log_l0[:, None, :] < log_l0[:, :, None]).sum(axis=2)
        left = np.clip(right - 1, 0, None)
        x0, x1, y0, y1 = (
            np.take_along_axis(knots, np.minimum(place, np.maximum(last, 0)), axis=1)
            for knots, place in ((self.log_l0, left), (self.log_l0, right), (self.value, left), (self.value, right))
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(x1 > x0, (log_l0 - x0) / (x1 - x0), 0.0)
            inside = (log_l0 >= self.log_l0[:, :1]) & (right <= last)
            return np.where(inside, y0 + share * (y1 - y0), np.nan)


def _fronts(sweep: Sweep, draws: NDArray[np.int64]) -> _Fronts:
    """Of `mean_front` for every row of ``draws [n_draws, n_seeds]``."""
    l0, r_squared = sweep.l0[draws].mean(axis=1), sweep.r_squared[draws].mean(axis=1)
    order = np.lexsort((-r_squared, l0), axis=1)
    l0, r_squared = np.take_along_axis(l0, order, axis=1), np.take_along_axis(r_squared, order, axis=1)
    alive = l0 > 0
    best_before = np.maximum.accumulate(np.where(alive, r_squared, -np.inf), axis=1)
    best_before = np.concatenate([np.full((len(l0), 1), -np.inf), best_before[:, :-1]], axis=1)
    is_kept = alive & (r_squared > best_before)
    first = np.argsort(~is_kept, axis=1, kind="stable")
    with np.errstate(divide="ignore"):
        log_l0 = np.where(is_kept, np.log(l0), np.inf)
    return _Fronts(np.take_along_axis(log_l0, first, axis=1), np.take_along_axis(r_squared, first, axis=1))


def _smallest_gaps(a: _Fronts, b: _Fronts) -> Array:
    """The smallest gap of every draw, ``[n_draws]``; NaN where the drawn fronts share no range.

    The gap is piecewise linear in log L0, so its minimum lies at a point of either front: no grid is needed.
    """
    knots = np.concatenate([a.log_l0, b.log_l0], axis=1)
    gap = a.at(knots) - b.at(knots)
    is_shared = ~np.isnan(gap)
    first, last = (np.min(np.where(is_shared, sign * knots, np.inf), axis=1) for sign in (1, -1))
    smallest = np.min(np.where(is_shared, gap, np.inf), axis=1)
    return np.where(first < -last, smallest, np.nan)
