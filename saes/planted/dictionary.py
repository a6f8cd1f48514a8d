"""A planted dictionary, its codes and its rows; a batch is a function of the seed and its number alone."""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from saes.planted.config import PlantedConfig

_STATISTICS_ROWS = 1 << 15
_SIZES = (0.5, 1.5)


class Statistics(NamedTuple):
    """Of many rows: what a learner scales them by."""

    mean: Tensor
    """``[d_in]`` float64."""
    scale: float
    """The constant that makes the mean of ||x - mean||^2 equal to d_in."""


class Codes(NamedTuple):
    """Sizes of the active features of rows, 0 where one is not active; ``[n, n_axes]`` each."""

    positive: Tensor
    """Along an axis."""
    negative: Tensor
    """Against it; 0 on axes that no pair lies on."""


class PlantedDictionary:
    """Axes and probabilities, drawn from a seed; the pairs' axes come first.

    Args:
        config: what to draw it with.
        seed: of the axes, of which features form pairs, and of the rows.
    """

    def __init__(self, config: PlantedConfig, seed: int) -> None:
        self.config, self._seed = config, seed
        generator = self._generator(0, 0)
        axes = torch.randn(config.n_axes, config.d_in, generator=generator, dtype=torch.float64)
        self.axes = (axes / axes.norm(dim=1, keepdim=True)).float()
        """``[n_axes, d_in]``, unit rows."""
        order = torch.randperm(config.n_features, generator=generator)
        drawn = torch.tensor(config.probabilities, dtype=torch.float64)[order]
        self.p_positive = drawn[: config.n_axes]
        """``[n_axes]``: P(active) along each axis."""
        self.p_negative = torch.zeros_like(self.p_positive)
        """``[n_axes]``: against it."""
        self.p_negative[: config.n_pairs] = drawn[config.n_axes :]

    def codes(self, n_rows: int, stream: int, number: int) -> Codes:
        """Of batch ``number`` of a stream (1: training, 2: held out, 3: statistics)."""
        return self._codes(n_rows, self._generator(stream, number))

    def rows(self, n_rows: int, stream: int, number: int) -> Tensor:
        """``[n_rows, d_in]``: the rows of `codes` of the same arguments, with noise."""
        generator = self._generator(stream, number)
        codes = self._codes(n_rows, generator)
        noise = torch.randn(n_rows, self.config.d_in, generator=generator) * (self.config.noise / self.config.d_in**0.5)
        return (codes.positive - codes.negative) @ self.axes + noise

    def statistics(self) -> Statistics:
        """Of 32 768 rows of their own stream."""
        rows = self.rows(_STATISTICS_ROWS, 3, 0).double()
        mean = rows.mean(dim=0)
        return Statistics(mean, float((self.config.d_in / (rows - mean).square().sum(dim=1).mean()) ** 0.5))

    def _codes(self, n_rows: int, generator: torch.Generator) -> Codes:
        """One uniform number an axis decides on both poles: [0, both) both, then the one alone, then the other alone."""
        positive, negative = self.p_positive, self.p_negative
        both = (1 + self.config.rho) * positive * negative
        drawn = torch.rand(n_rows, len(positive), generator=generator, dtype=torch.float64)
        is_positive = drawn < positive
        is_negative = (drawn < both) | ((drawn >= positive) & (drawn < positive + negative - both))
        low, high = _SIZES
        sizes = low + (high - low) * torch.rand(2, n_rows, len(positive), generator=generator)
        return Codes(is_positive * sizes[0], is_negative * sizes[1])

    def _generator(self, stream: int, number: int) -> torch.Generator:
        digest = hashlib.sha256(f"{self._seed} {stream} {number}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


class PlantedBatches:
    """An endless stream of training batches ``[batch_size, d_in]``; its state is one number."""

    def __init__(self, dictionary: PlantedDictionary, batch_size: int) -> None:
        self._dictionary, self._batch_size, self._cursor = dictionary, batch_size, 0

    def __next__(self) -> Tensor:
        self._cursor += 1
        return self._dictionary.rows(self._batch_size, 1, self._cursor - 1)

    def where(self) -> str:
        """Where the batch given last came from, for error messages."""
        return f"planted batch {self._cursor - 1}"

    def state_dict(self) -> dict[str, int]:
        """Position in the stream."""
        return {"cursor": self._cursor}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a position."""
        self._cursor = state["cursor"]
