"""Metrics as objects: `update` with rows as they come, then `value`. One definition each, float64 accumulators.

These belong to every kind of study; `eval.saes.metrics`, `eval.networks.metrics` and `eval.xor.metrics` have those of one kind.
"""

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor


class Metric(Protocol):
    """Something measured; its name is a column of `eval.csv`."""

    name: str

    @property
    def value(self) -> float:
        """Of everything seen; NaN where that says nothing."""
        ...


def values(metrics: Iterable[Metric]) -> dict[str, float]:
    """Values by name, in order."""
    return {metric.name: metric.value for metric in metrics}


class RSquared:
    """R2 = 1 - SSE/SST, SST about the mean of the rows seen, per dimension (docs/metrics.md).

    Sums run about the first batch's mean, so that they do not cancel.
    """

    def __init__(self, name: str = "r_squared") -> None:
        self.name = name
        self.n_rows = 0
        self._sse = 0.0
        self._origin: Tensor | None = None
        self._sum: Tensor | None = None
        self._sum_of_squares = 0.0

    def update(self, y: Tensor, prediction: Tensor) -> None:
        """Add ``y`` and its predictions, both ``[n]`` or ``[n, d]``."""
        if len(y) == 0:
            return
        exact = y.double()
        if self._origin is None or self._sum is None:
            self._origin, self._sum = exact.mean(dim=0), torch.zeros_like(exact[0])
        shifted = exact - self._origin
        self._sse += float((exact - prediction.double()).pow(2).sum())
        self._sum += shifted.sum(dim=0)
        self._sum_of_squares += float(shifted.pow(2).sum())
        self.n_rows += len(y)

    @property
    def value(self) -> float:
        """NaN when there are no rows or they do not vary."""
        if self._sum is None:
            return float("nan")
        sst = self._sum_of_squares - float(self._sum.pow(2).sum()) / self.n_rows
        return 1 - self._sse / sst if sst > 0 else float("nan")


class Accuracy:
    """Share of labels -1 and 1 whose sign the output has; an output of 0 has none."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._n_right = self._n_rows = 0

    def update(self, y: Tensor, output: Tensor) -> None:
        """Add labels ``y [n]`` and outputs ``[n]``."""
        self._n_right += int((output.sign() == y).sum())
        self._n_rows += len(y)

    @property
    def value(self) -> float:
        """NaN without rows."""
        return self._n_right / self._n_rows if self._n_rows else float("nan")


class BalancedAccuracy:
    """Mean over both classes of the share predicted; an output of 0 predicts the class -1."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._n_right = {1: 0, -1: 0}
        self._n_rows = {1: 0, -1: 0}

    def update(self, y: Tensor, output: Tensor) -> None:
        """Add labels -1 and 1 ``y [n]`` and outputs ``[n]``."""
        is_right = (output > 0) == (y > 0)
        for label in (1, -1):
            of_class = (y > 0) == (label > 0)
            self._n_right[label] += int((is_right & of_class).sum())
            self._n_rows[label] += int(of_class.sum())

    @property
    def value(self) -> float:
        """Over the classes that there are; NaN without rows."""
        shares = self._shares
        return sum(shares) / len(shares) if shares else float("nan")

    @property
    def standard_error(self) -> float:
        """From the sampling of rows: sqrt(sum_c p_c (1 - p_c) / n_c) / 2."""
        counts = [count for count in self._n_rows.values() if count]
        return sum(p * (1 - p) / n for p, n in zip(self._shares, counts, strict=True)) ** 0.5 / 2

    @property
    def _shares(self) -> list[float]:
        return [self._n_right[label] / self._n_rows[label] for label in (1, -1) if self._n_rows[label]]
