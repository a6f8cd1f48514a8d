"""Where the norms of a hook's rows leave off being those of ordinary tokens: attention sinks lie beyond a gap."""

from typing import NamedTuple

import torch
from torch import Tensor

BINS_PER_DECADE = 20
_BULK = 1.5
"""A gap is counted from this many median norms on ..."""
_LARGEST_SHARE_ABOVE = 0.05
"""... leaves at most this share of the rows above it ..."""
_LEAST_RATIO = 1.4
"""... and is at least so wide, as a ratio of the norms on its sides;"""
_FEW_ROWS, _LEAST_RATIO_FEW = 8, 1.6
"""wider where fewer rows lie above it, since the largest of many norms are far apart anyway."""


class NormBound(NamedTuple):
    """Norm over which a row is an outlier."""

    value: float
    gap: tuple[float, float] | None
    """The norms on both sides of the gap that it lies in; None where it is a multiple of the median."""


def norm_bound(norms: Tensor, factor: float | None) -> NormBound | None:
    """The bound for rows like these ``[n_rows]``: in the lowest gap, or ``factor`` times the median where there is none.

    None without a factor, which switches the filter off, and where the median is 0. In a gap it is the geometric mean of its
    sides, so that rows of other shards fall on the same side; never more than ``factor`` times the median.
    """
    ordered = norms.double().sort().values
    median = float(ordered[(len(ordered) - 1) // 2]) if len(ordered) else 0.0
    if factor is None or median == 0:
        return None
    low, high = ordered[:-1].clamp_min(_BULK * median), ordered[1:]
    n_above = torch.arange(len(low), 0, -1)
    least_ratio = torch.where(n_above < _FEW_ROWS, _LEAST_RATIO_FEW, _LEAST_RATIO)
    is_gap = (low <= factor * median) & (high >= least_ratio * low) & (n_above <= _LARGEST_SHARE_ABOVE * len(ordered))
    if not bool(is_gap.any()):
        return NormBound(factor * median, None)
    first = int(is_gap.nonzero()[0])
    below, above = float(low[first]), float(high[first])
    return NormBound(min((below * above) ** 0.5, factor * median), (float(ordered[first]), above))


def norm_histogram(norms: Tensor) -> list[tuple[int, int]]:
    """``(bin, rows)`` of bins that hold rows; bin k is 10^(k/20) <= norm < 10^((k+1)/20). Norms of 0 are left out."""
    bins = (norms[norms > 0].double().log10() * BINS_PER_DECADE).floor().long()
    values, counts = bins.unique(return_counts=True)
    return list(zip(values.tolist(), counts.tolist(), strict=True))
