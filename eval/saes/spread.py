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
    distances = torch.cat([squared_distance(piece.kept, mean) for piece in held_out_rows(dataset, hook_name, "cpu")])
    top = distances.topk(ceil(TOP_FRACTION * len(distances))).values
    total = float(distances.sum())
    return Spread(mean, float(top[-1]), float(top.sum()) / total if total > 0 else 0.0)


class HeldOutRows(NamedTuple):
    """A piece of the held-out rows of a hook."""

    x: Tensor
    """``[n, d_in]``."""
    is_outlier: Tensor
    """``[n]`` bool: norm over the filter's bound."""
    document: Tensor
    """``[n]`` int64, on the CPU: number of the document that each is of."""

    @property
    def kept(self) -> Tensor:
        """``[n_kept, d_in]``."""
        return self.x[~self.is_outlier]


def held_out_rows(dataset: ActivationDataset, hook_name: str, device: torch.device | str) -> Iterable[HeldOutRows]:
    """Pieces of them."""
    for index in dataset.shards("held_out"):
        rows, document = dataset.read(hook_name, index), dataset.read_tokens(index)["document"].long()
        pieces = (part.split(_ROWS_PER_STEP) for part in (*rows, document))
        for x, is_outlier, of in zip(*pieces, strict=True):
            yield HeldOutRows(x.to(device), is_outlier.to(device), of)
