"""Many curves at once: of a sweep as it is, without each of its seeds, and with its documents resampled."""

from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.saes.documents import GroupSums
from eval.saes.pareto import Sweep

Array = NDArray[np.float64]
Quantity = Literal["r_squared", "loss_recovered", "dead_fraction"]

N_RESAMPLED, _SEED = 1000, 0


class Curves(NamedTuple):
    """Curves along L0; a curve's points come first, what follows them is padding."""

    log_l0: Array
    """``[n_curves, n_coefficients]``, ascending; infinite in the padding."""
    value: Array
    """Of the same shape."""

    def at(self, log_l0: Array) -> Array:
        """Values ``[n_curves, n]`` of every curve at its row of ``log_l0 [n_curves, n]``; NaN outside its range."""
        if not self.log_l0.shape[1]:
            return np.full_like(log_l0, np.nan)
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

    def only(self, chosen: NDArray[np.int64] | slice) -> "Curves":
        """Some of them, in that order."""
        return Curves(self.log_l0[chosen], self.value[chosen])


class Draws(NamedTuple):
    """Seed-mean curves of one sweep."""

    seeds: tuple[int, ...]
    n_groups: int
    """Groups of documents; 0 where they are not known."""
    curves: Curves
    """``1 + n_seeds + n_resampled``: as measured; without each seed; of all seeds, with documents resampled."""

    @property
    def n_seeds(self) -> int:
        return len(self.seeds)


def draws(sweep: Sweep, quantity: Quantity) -> Draws | None:
    """Curves of a quantity; for R2 their Pareto fronts. None where it was not measured."""
    values: Array | None = getattr(sweep, quantity)
    if values is None:
        return None
    l0, value = _with_and_without_each_seed(sweep.l0), _with_and_without_each_seed(values)
    if sweep.documents is not None:
        resampled_l0, resampled = _resampled(sweep.documents, quantity)
        l0 = np.vstack([l0, resampled_l0])
        value = np.vstack([value, np.tile(value[:1], (len(resampled_l0), 1)) if resampled is None else resampled])
    n_groups = _n_groups(sweep.documents, quantity) if sweep.documents else 0
    seeds = sweep.seeds or tuple(range(sweep.n_seeds))
    return Draws(seeds, n_groups, curves(l0, value, only_front=quantity == "r_squared"))


def curves(l0: Array, value: Array, *, only_front: bool) -> Curves:
    """Of points ``[n_curves, n_coefficients]``, those of L0 0 left out; on request without the points that others beat."""
    order = np.lexsort((-value, l0), axis=1)
    l0, value = np.take_along_axis(l0, order, axis=1), np.take_along_axis(value, order, axis=1)
    is_kept = l0 > 0
    if only_front:
        best = np.maximum.accumulate(np.where(is_kept, value, -np.inf), axis=1)
        best_before = np.concatenate([np.full((len(l0), 1), -np.inf), best[:, :-1]], axis=1)
        is_kept &= value > best_before
    first = np.argsort(~is_kept, axis=1, kind="stable")
    with np.errstate(divide="ignore"):
        log_l0 = np.where(is_kept, np.log(l0), np.inf)
    return Curves(np.take_along_axis(log_l0, first, axis=1), np.take_along_axis(value, first, axis=1))


def smallest_gaps(a: Curves, b: Curves) -> Array:
    """The smallest gap of A over B, ``[n_curves]``; NaN where two curves share no range.

    The gap is piecewise linear in log L0, so its minimum lies at a point of either curve: no grid is needed.
    """
    knots = np.concatenate([a.log_l0, b.log_l0], axis=1)
    gap = a.at(knots) - b.at(knots)
    is_shared = ~np.isnan(gap)
    first, last = (np.min(np.where(is_shared, sign * knots, np.inf), axis=1) for sign in (1, -1))
    smallest = np.min(np.where(is_shared, gap, np.inf), axis=1)
    return np.where(first < -last, smallest, np.nan)


def _with_and_without_each_seed(values: Array) -> Array:
    """``[1 + n_seeds, n_coefficients]``: means of all rows of ``values``, and of all but each; the first alone for one row."""
    n_seeds = len(values)
    others = [np.delete(values, seed, axis=0).mean(axis=0) for seed in range(n_seeds)] if n_seeds > 1 else []
    return np.stack([values.mean(axis=0), *others])


@cache
def _weights(n_groups: int) -> Array:
    """``[N_RESAMPLED, n_groups]``: how often each group is drawn; the same for all that have as many."""
    generator = np.random.default_rng([_SEED, n_groups])
    return generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=N_RESAMPLED).astype(np.float64)


def _resampled(sums: GroupSums, quantity: Quantity) -> tuple[Array, Array | None]:
    """L0 and a quantity, ``[N_RESAMPLED, n_coefficients]``: means over all seeds. None for the dead fraction: resampled text
    holds fewer documents, on which fewer latents fire, so that it would be biased."""
    weights = _weights(sums.n_groups)

    def mean_ratio(above: Array, below: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return (_weighted(weights, above) / _weighted(weights, below)).mean(axis=1)

    l0 = mean_ratio(sums.n_fires, sums.n_rows)
    if quantity == "dead_fraction":
        return l0, None
    return l0, 1 - mean_ratio(sums.sse, sums.sst) if quantity == "r_squared" else mean_ratio(sums.lost, sums.losable)


def _n_groups(sums: GroupSums, quantity: Quantity) -> int:
    """Groups of documents of which a quantity was measured."""
    if quantity != "loss_recovered":
        return sums.n_groups
    return int((sums.losable != 0).any(axis=(0, 1)).sum())


def _weighted(weights: Array, sums: Array) -> Array:
    """``[n_draws, n_seeds, n_coefficients]``."""
    return (weights @ sums.reshape(-1, sums.shape[-1]).T).reshape(-1, *sums.shape[:-1])
