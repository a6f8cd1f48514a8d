"""Points -> fronts, matched-L0 interpolation, dominance with uncertainty (docs/method.md, "Fronts and verdicts")."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_GRID_POINTS = 201
_BOOTSTRAP_DRAWS = 1000
_INTERVAL = (2.5, 97.5)


class Sweep(NamedTuple):
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


def dominance(a: Sweep, b: Sweep, *, seed: int = 0) -> Dominance | None:
    """How far A lies above B; None when their L0 ranges do not overlap.

    The interval resamples seeds with replacement, for A and B alike where they have the same number (their seeds share
    data order), independently otherwise.
    """
    overlap = _overlap(mean_front(a), mean_front(b))
    if overlap is None:
        return None
    gap = _gap(a, b, overlap)
    generator = np.random.default_rng(seed)
    interval = None
    if min(a.n_seeds, b.n_seeds) > 1:
        draws = [_resampled_minimum(a, b, generator) for _ in range(_BOOTSTRAP_DRAWS)]
        low, high = np.nanpercentile(draws, _INTERVAL)
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
    front_a, front_b = mean_front(a), mean_front(b)
    knots = np.concatenate([front_a.l0, front_b.l0])
    inside = knots[(knots >= overlap[0]) & (knots <= overlap[1])]
    grid = np.union1d(np.geomspace(*overlap, _GRID_POINTS), inside)
    gap = front_a.at(grid) - front_b.at(grid)
    return gap[~np.isnan(gap)]


def _resampled_minimum(a: Sweep, b: Sweep, generator: np.random.Generator) -> float:
    draw_a = generator.integers(a.n_seeds, size=a.n_seeds)
    draw_b = draw_a if a.n_seeds == b.n_seeds else generator.integers(b.n_seeds, size=b.n_seeds)
    drawn_a, drawn_b = a.of_seeds(draw_a), b.of_seeds(draw_b)
    overlap = _overlap(mean_front(drawn_a), mean_front(drawn_b))
    return float("nan") if overlap is None else float(_gap(drawn_a, drawn_b, overlap).min())
