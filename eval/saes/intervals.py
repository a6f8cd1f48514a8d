"""Intervals over seeds and documents (docs/method.md, "Uncertainty").

A handful of seeds is too few to resample: the percentiles of three seeds' bootstrap hold the truth in three studies of four. So
the variance between seeds is the jackknife's, that between documents the bootstrap's of the seed means, and an interval
reaches as far as the root of sum t_i^2 v_i, each variance with the quantile of Student's t at its own degrees of freedom. Such
intervals hold the truth in at least 95 % of normal samples (Banerjee 1961); Satterthwaite's do not, at three seeds.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.saes.draws import Draws

Array = NDArray[np.float64]

LEAST_DOCUMENTS = 10
"""Documents (or groups of them) without which their spread is a guess."""
_LEVEL = 0.95
_ROUNDING = 1e-12
_MOST_LOST = 0.05
"""Share of resampled texts in which a value may be missing."""


class Interval(NamedTuple):
    """95 % of the distribution of an estimate."""

    low: float
    high: float
    standard_error: float


Index = NDArray[np.int64] | slice
Statistic = Callable[[Index, Index], Array]
"""Of curves of A and as many of B, by their places: a number for each pair, ``[n]`` or ``[n, m]``; NaN where there is none."""


class _Part(NamedTuple):
    """One source of variance, for ``[m]`` numbers."""

    variance: Array
    degrees_of_freedom: float
    lost: NDArray[np.bool_]
    """Where too many of its draws have no value."""


def compared(a: Draws, b: Draws, statistic: Statistic) -> tuple[Array, list[Interval | str]]:
    """A statistic of two sweeps, ``[m]``, and its interval, or why there is none.

    Sweeps with the same seeds are compared seed by seed, since those share data and order; documents are the same for both.
    """
    estimate = np.atleast_1d(statistic(slice(0, 1), slice(0, 1))[0])
    reason = _too_little(a, b)
    if reason:
        return estimate, [reason] * len(estimate)
    parts = [_jackknife(_two_axes(statistic(*pair))) for pair in _without_seeds(a, b)]
    n_groups = min(a.n_groups, b.n_groups)
    if n_groups:
        resampled = statistic(slice(1 + a.n_seeds, None), slice(1 + b.n_seeds, None))
        parts.append(_bootstrap(_two_axes(resampled), n_groups))
    return estimate, [_interval(value, parts, place) for place, value in enumerate(estimate)]


def _too_little(a: Draws, b: Draws) -> str:
    if min(a.n_seeds, b.n_seeds) < 2:
        return "there is one seed, so nothing is known of the spread; give more seeds for an interval"
    n_groups = min(a.n_groups, b.n_groups)
    if 0 < n_groups < LEAST_DOCUMENTS:
        return (
            f"the held-out text has {n_groups} documents, and an interval needs {LEAST_DOCUMENTS}; raise harvest.n_tokens or "
            "harvest.held_out_fraction"
        )
    return ""


def _without_seeds(a: Draws, b: Draws) -> list[tuple[Index, Index]]:
    of_a, of_b = slice(1, 1 + a.n_seeds), slice(1, 1 + b.n_seeds)
    return (
        [(of_a, of_b)] if a.seeds == b.seeds else [(of_a, np.zeros(a.n_seeds, int)), (np.zeros(b.n_seeds, int), of_b)]
    )


def _two_axes(values: Array) -> Array:
    return values[:, None] if values.ndim == 1 else values


def _jackknife(without: Array) -> _Part:
    """``[n_seeds, m]``: the statistic without each seed."""
    n = len(without)
    variance = (n - 1) / n * ((without - without.mean(axis=0)) ** 2).sum(axis=0)
    return _Part(variance, n - 1, np.isnan(variance))


def _bootstrap(resampled: Array, n_groups: int) -> _Part:
    """``[n_draws, m]``: the statistic of each resampled text."""
    is_there = ~np.isnan(resampled)
    n_there = np.maximum(is_there.sum(axis=0), 2)
    mean = np.where(is_there, resampled, 0).sum(axis=0) / n_there
    variance = np.where(is_there, (resampled - mean) ** 2, 0).sum(axis=0) / (n_there - 1)
    return _Part(variance, n_groups - 1, is_there.mean(axis=0) < 1 - _MOST_LOST)


def _interval(value: float, parts: Sequence[_Part], place: int) -> Interval | str:
    from scipy.special import stdtrit

    if np.isnan(value):
        return "it lies outside the L0 range that both cover"
    if any(part.lost[place] for part in parts):
        return "it lies so near the end of a sweep that with other seeds or documents it has no value; widen the sweeps"
    variances = [float(part.variance[place]) for part in parts]
    total = sum(variances)
    if total <= (_ROUNDING * value) ** 2:
        return "all seeds have the same value"
    quantiles = [float(stdtrit(part.degrees_of_freedom, (1 + _LEVEL) / 2)) for part in parts]
    reach = sum(quantile**2 * variance for quantile, variance in zip(quantiles, variances, strict=True)) ** 0.5
    return Interval(float(value) - reach, float(value) + reach, total**0.5)
