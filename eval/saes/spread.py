"""Which held-out rows decide R²: the hundredth of them that lies farthest from their mean."""

from collections.abc import Iterable
from functools import cache
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from hookpoints.shards import ActivationDataset

TOP_FRACTION = 0.01
DECISIVE_SHARE = 0.25
"""Top rows that hold more of SST than this decide R²."""
_ROWS_PER_STEP = 4096
_ROUNDING = 1e-12
"""Another device may add up in another order."""


class Spread(NamedTuple):
    """Of the held-out rows of a hook that the norm filter keeps."""

    mean: Tensor
    """``[d_in]`` float64."""
    bound: float
    """Squared distance from the mean that the top rows reach."""
    top_share: float
    """Share of SST that the top rows hold."""

    def is_top(self, rows: Tensor) -> Tensor:
        """``[n]`` bool: which rows ``[n, d_in]`` are top rows."""
        return squared_distance(rows, self.mean.to(rows.device)) >= self.bound * (1 - _ROUNDING)


def squared_distance(rows: Tensor, centre: Tensor) -> Tensor:
    """``[n]`` float64: ||x - centre||^2 of rows ``[n, d_in]``."""
    return (rows.double() - centre).square().sum(dim=1)


@cache
def held_out_spread(dataset: ActivationDataset, hook_name: str) -> Spread:
    """One pass over the held-out rows, for every SAE of the hook."""
    mean = torch.tensor(dataset.view.hooks[hook_name].held_out_mean, dtype=torch.float64)
    distances = torch.cat(
        [squared_distance(x[~is_outlier], mean) for x, is_outlier in held_out_rows(dataset, hook_name, "cpu")]
    )
    top = distances.topk(ceil(TOP_FRACTION * len(distances))).values
    total = float(distances.sum())
    return Spread(mean, float(top[-1]), float(top.sum()) / total if total > 0 else 0.0)


def held_out_rows(
    dataset: ActivationDataset, hook_name: str, device: torch.device | str
) -> Iterable[tuple[Tensor, Tensor]]:
    """Pieces of the held-out rows ``[n, d_in]`` with ``[n]`` bool that marks norm outliers."""
    for index in dataset.shards("held_out"):
        rows = dataset.read(hook_name, index)
        for x, is_outlier in zip(
            rows.activations.split(_ROWS_PER_STEP), rows.is_outlier.split(_ROWS_PER_STEP), strict=True
        ):
            yield x.to(device), is_outlier.to(device)
