"""XOR-cluster data, drawn in blocks of features, and the inner products of a draw (Xu, Wang, Frei, Vardi and Hu 2023).

mu_1 and mu_2 are orthogonal and of equal norm; label 1: x ~ N(+-mu_1, I_p), label -1: x ~ N(+-mu_2, I_p), signs even; training
labels flip with a probability.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from twolayer.xor.config import XORConfig

_BLOCK = 4096
"""Features drawn at a time; each block has a generator of its own, so it is part of what a seed means."""


class Labels(NamedTuple):
    """Which cluster every row comes from; 0, 1: +mu_1, -mu_1; 2, 3: +mu_2, -mu_2."""

    train_cluster: Tensor
    """``[n_train]``."""
    test_cluster: Tensor
    """``[n_test]``."""
    is_flipped: Tensor
    """``[n_train]`` bool."""

    @property
    def train(self) -> Tensor:
        """Training labels, flips included: ``[n_train]``, float64."""
        return torch.where(self.is_flipped, -1.0, 1.0).double() * _clean(self.train_cluster)

    @property
    def test(self) -> Tensor:
        """Clean test labels ``[n_test]``, float64."""
        return _clean(self.test_cluster)


class Block(NamedTuple):
    """A block of features of everything that is drawn."""

    train: Tensor
    """``[n_train, block]``."""
    test: Tensor
    """``[n_test, block]``."""
    weights: Tensor
    """W_0, ``[n_neurons, block]``."""
    means: Tensor
    """mu_1 and mu_2, ``[2, block]``."""


class GramProblem(NamedTuple):
    """All inner products that descent and its figures need, float64."""

    labels: Labels
    signs: Tensor
    """a ``[n_neurons]``."""
    train_train: Tensor
    """X X'."""
    test_train: Tensor
    """``[n_test, n_train]``."""
    means_train: Tensor
    """``[2, n_train]``: <mu, x_i>."""
    weights_train: Tensor
    """W_0 X', ``[n_neurons, n_train]``."""
    weights_test: Tensor
    """``[n_neurons, n_test]``."""
    weights_means: Tensor
    """``[n_neurons, 2]``."""
    weights_squared: Tensor
    """|w_j|^2 of W_0, ``[n_neurons]``."""


def draw_labels(config: XORConfig, seed: int) -> Labels:
    """Clusters and flips of a seed."""
    generator = torch.Generator().manual_seed(seed)
    if config.is_balanced:
        train = torch.arange(config.n_train) % 4
    else:
        train = torch.randint(0, 4, (config.n_train,), generator=generator)
    test = torch.randint(0, 4, (config.n_test,), generator=generator)
    flipped = torch.rand(config.n_train, generator=generator) < config.flip_fraction
    return Labels(train, test, flipped)


def draw_blocks(config: XORConfig, seed: int) -> Iterator[Block]:
    """The features of a seed, block after block; mu_1 and mu_2 lie along the first two axes, which rotation makes general."""
    labels = draw_labels(config, seed)
    means = torch.zeros(2, config.n_features, dtype=torch.float64)
    means[0, 0] = means[1, 1] = config.norm
    for start in range(0, config.n_features, _BLOCK):
        generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + start)
        part = means[:, start : start + _BLOCK]
        width = part.shape[1]

        def normal(n: int, width: int = width, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(n, width, generator=generator, dtype=torch.float64)

        centres = torch.stack([part[0], -part[0], part[1], -part[1]])
        train = normal(config.n_train) + centres[labels.train_cluster]
        test = normal(config.n_test) + centres[labels.test_cluster]
        yield Block(train, test, config.init_scale * normal(config.n_neurons), part)


def output_signs(config: XORConfig) -> Tensor:
    """a: the first half of the neurons +1 / sqrt(m), the others -1 / sqrt(m)."""
    signs = torch.ones(config.n_neurons, dtype=torch.float64)
    signs[config.n_neurons // 2 :] = -1
    return signs / config.n_neurons**0.5


def gram_problem(config: XORConfig, seed: int) -> GramProblem:
    """Draw a seed and keep its inner products; memory is that of one block of features."""
    n, n_test, m = config.n_train, config.n_test, config.n_neurons
    rows = n + n_test + 2
    inner = torch.zeros(n + m, rows, dtype=torch.float64)
    squared = torch.zeros(m, dtype=torch.float64)
    for block in draw_blocks(config, seed):
        left = torch.cat([block.train, block.weights])
        inner.addmm_(left, torch.cat([block.train, block.test, block.means]).T)
        squared += block.weights.square().sum(dim=1)
    of_train, of_weights = inner[:n].split([n, n_test, 2], dim=1), inner[n:].split([n, n_test, 2], dim=1)
    return GramProblem(
        labels=draw_labels(config, seed),
        signs=output_signs(config),
        train_train=of_train[0],
        test_train=of_train[1].T,
        means_train=of_train[2].T,
        weights_train=of_weights[0],
        weights_test=of_weights[1],
        weights_means=of_weights[2],
        weights_squared=squared,
    )


def _clean(cluster: Tensor) -> Tensor:
    return torch.where(cluster < 2, 1.0, -1.0).double()
