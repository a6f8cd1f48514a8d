"""XOR-cluster data and gradient descent on it: benign overfitting and grokking (Xu, Wang, Frei, Vardi and Hu 2023).

mu_1 and mu_2 are orthogonal and of equal norm; label 1: x ~ N(+-mu_1, I_p), label -1: x ~ N(+-mu_2, I_p), signs even; training
labels flip with a probability. f(x) = sum_j a_j relu(<w_j, x>), a_j = +-1 / sqrt(m) fixed, w_j ~ N(0, omega^2 I),
learns by full-batch gradient descent of constant step on the mean logistic loss.

Weights stay in W_0 + span of the training rows, W = W_0 + C X, so that descent needs only inner products: `gram_problem` draws
data and W_0 in blocks of features and keeps W_0 X' and X X' (and those with the test rows and the means), and a step costs
O(m n^2) instead of O(m n p). `PlainDescent` does the same on W itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

_BLOCK = 4096
"""Features drawn at a time; each block has a generator of its own, so it is part of what a seed means."""


@dataclass(frozen=True)
class XORConfig:
    """Data and network. The defaults are the published figure's."""

    n_train: int = 200
    """Training rows."""
    n_features: int = 40_000
    """Dimension p."""
    n_test: int = 1000
    """Test rows, with clean labels."""
    mean_norm: float | None = None
    """Norm of mu_1 and mu_2; 2.5 sqrt(p / n_train) unless given."""
    flip_fraction: float = 0.05
    """Probability eta that a training label is flipped."""
    is_balanced: bool = False
    """Whether every cluster holds n_train / 4 training rows exactly."""
    n_neurons: int = 1000
    """Width m; half of the output weights are positive."""
    init_scale: float = 1e-15
    """Standard deviation omega of the initial weights."""

    def __post_init__(self) -> None:
        for name in ("n_train", "n_features", "n_test", "n_neurons"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 2 or more")
        if self.n_neurons % 2:
            raise ValueError(
                f"n_neurons is {self.n_neurons}; half of the output weights are positive, so it must be even"
            )
        if self.is_balanced and self.n_train % 4:
            raise ValueError(f"n_train is {self.n_train}; four clusters of equal size need a multiple of 4")
        if not 0 <= self.flip_fraction < 0.5:
            raise ValueError(f"flip_fraction is {self.flip_fraction}; it must lie in [0, 0.5)")
        if not self.init_scale > 0 or (self.mean_norm is not None and not self.mean_norm > 0):
            raise ValueError("init_scale and mean_norm must be more than 0")

    @property
    def norm(self) -> float:
        """Of mu_1 and mu_2."""
        return 2.5 * (self.n_features / self.n_train) ** 0.5 if self.mean_norm is None else self.mean_norm


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


class XORMetrics(NamedTuple):
    """Where a network stands."""

    train_accuracy: float
    """On the training labels, flips included."""
    test_accuracy: float
    """On clean labels."""
    flipped_fit: float
    """Share of the flipped training labels that are fit; nan without any."""
    own_feature_share: float
    """Share of neurons whose projection on the mean of their own sign's clusters is the larger one."""
    linear_slope: float
    """Least-squares slope of f on <sum_i y_i x_i, x> over test rows, over alpha / (8 n): 1 if f is that linear classifier."""
    linear_r_squared: float
    """R2 of that fit: 1 if f is linear."""


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


class GramDescent:
    """A learner: each `step` is one gradient-descent step of W = W_0 + C X, on inner products.

    Args:
        config: data and network.
        seed: of data and W_0.
        learning_rate: alpha.
    """

    def __init__(self, config: XORConfig, *, seed: int, learning_rate: float) -> None:
        self.config, self.learning_rate = config, check_learning_rate(learning_rate)
        self.problem = gram_problem(config, seed)
        self._coefficients = torch.zeros_like(self.problem.weights_train)
        """C."""
        self._train = self.problem.weights_train.clone()
        """W X'."""

    def step(self, batch: object = None) -> dict[str, Tensor | float]:
        """One step; returns the loss before it and the training accuracy after it."""
        loss, push = push_of(self._train, self.problem.signs, self.problem.labels.train, self.learning_rate)
        self._coefficients += push
        self._train = self.problem.weights_train + self._coefficients @ self.problem.train_train
        return {"loss": loss, "train_accuracy": _accuracy(self._train, self.problem.signs, self.problem.labels.train)}

    def metrics(self) -> XORMetrics:
        """Where the network stands."""
        problem, coefficients = self.problem, self._coefficients
        test = problem.weights_test + coefficients @ problem.test_train.T
        means = problem.weights_means + coefficients @ problem.means_train.T
        linear = problem.test_train @ problem.labels.train
        return measure(
            self._train,
            test,
            means,
            linear,
            problem.labels,
            problem.signs,
            self.learning_rate / (8 * self.config.n_train),
        )

    def projections(self) -> Tensor:
        """Cosines of the neurons with mu_1 and mu_2, ``[n_neurons, 2]``."""
        problem, coefficients = self.problem, self._coefficients
        means = problem.weights_means + coefficients @ problem.means_train.T
        inside = (coefficients * (2 * problem.weights_train + coefficients @ problem.train_train)).sum(dim=1)
        norms = (problem.weights_squared + inside).clamp_min(0).sqrt()
        return means / (norms[:, None] * self.config.norm)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        return {"coefficients": self._coefficients, "train": self._train}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._coefficients, self._train = state["coefficients"], state["train"]


class PlainDescent:
    """A learner: the same steps on W ``[n_neurons, n_features]`` itself; arguments as for `GramDescent`."""

    def __init__(self, config: XORConfig, *, seed: int, learning_rate: float) -> None:
        self.config, self.learning_rate = config, check_learning_rate(learning_rate)
        self._x, self._x_test, self._weights, self._means = (
            torch.cat(parts, dim=1) for parts in zip(*draw_blocks(config, seed), strict=True)
        )
        self._labels, self._signs = draw_labels(config, seed), output_signs(config)

    def step(self, batch: object = None) -> dict[str, Tensor | float]:
        """One step; returns the loss before it and the training accuracy after it."""
        loss, push = push_of(self._weights @ self._x.T, self._signs, self._labels.train, self.learning_rate)
        self._weights = self._weights + push @ self._x
        return {"loss": loss, "train_accuracy": _accuracy(self._weights @ self._x.T, self._signs, self._labels.train)}

    def metrics(self) -> XORMetrics:
        """Where the network stands."""
        linear = self._x_test @ (self._labels.train @ self._x)
        hidden = [self._weights @ rows.T for rows in (self._x, self._x_test, self._means)]
        scale = self.learning_rate / (8 * self.config.n_train)
        return measure(hidden[0], hidden[1], hidden[2], linear, self._labels, self._signs, scale)

    def projections(self) -> Tensor:
        """Cosines of the neurons with mu_1 and mu_2, ``[n_neurons, 2]``."""
        return self._weights @ self._means.T / (self._weights.norm(dim=1, keepdim=True) * self.config.norm)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        return {"weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._weights = state["weights"]


DESCENTS: dict[Literal["gram", "plain"], type[GramDescent] | type[PlainDescent]] = {
    "gram": GramDescent,
    "plain": PlainDescent,
}


def check_learning_rate(learning_rate: float) -> float:
    """Raises ValueError unless it is more than 0."""
    if not learning_rate > 0:
        raise ValueError(f"learning_rate is {learning_rate}; it must be more than 0")
    return learning_rate


def push_of(hidden: Tensor, signs: Tensor, y: Tensor, learning_rate: float) -> tuple[Tensor, Tensor]:
    """Mean logistic loss at ``hidden = W X' [m, n]``, and the C of the descent step C X, ``[m, n]``."""
    margins = y * (signs @ hidden.clamp_min(0))
    pull = torch.sigmoid(-margins) * y
    push = (learning_rate / len(y)) * signs[:, None] * (hidden > 0) * pull
    return torch.nn.functional.softplus(-margins).mean(), push


def measure(
    train: Tensor, test: Tensor, means: Tensor, linear: Tensor, labels: Labels, signs: Tensor, scale: float
) -> XORMetrics:
    """Metrics from pre-activations on training rows, test rows and means, ``[m, rows]``.

    Args:
        linear: <sum_i y_i x_i, x>, ``[n_test]``.
        scale: alpha / (8 n).
    """
    f = signs @ test.clamp_min(0)
    slope = float(linear @ f / (linear @ linear))
    residual = f - slope * linear
    own = torch.where(signs[:, None] > 0, means.abs(), means.abs().flip(1))
    fits = (signs @ train.clamp_min(0)).sign() == labels.train
    return XORMetrics(
        train_accuracy=_accuracy(train, signs, labels.train),
        test_accuracy=_accuracy(test, signs, labels.test),
        flipped_fit=float(fits[labels.is_flipped].double().mean()),
        own_feature_share=float((own[:, 0] > own[:, 1]).double().mean()),
        linear_slope=slope / scale,
        linear_r_squared=1 - float(residual.square().sum() / (f - f.mean()).square().sum()),
    )


def _accuracy(hidden: Tensor, signs: Tensor, y: Tensor) -> float:
    return float(((signs @ hidden.clamp_min(0)).sign() == y).double().mean())


def _clean(cluster: Tensor) -> Tensor:
    return torch.where(cluster < 2, 1.0, -1.0).double()
