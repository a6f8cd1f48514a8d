"""Gradient descent on XOR clusters: benign overfitting and grokking (Xu, Wang, Frei, Vardi and Hu 2023).

f(x) = sum_j a_j relu(<w_j, x>), a_j = +-1 / sqrt(m) fixed, w_j ~ N(0, omega^2 I), learns by full-batch gradient descent of
constant step on the mean logistic loss.

Weights stay in W_0 + span of the training rows, W = W_0 + C X, so that descent needs only inner products: `gram_problem` draws
data and W_0 in blocks of features and keeps W_0 X' and X X' (and those with the test rows and the means), and a step costs
O(m n^2) instead of O(m n p). `PlainDescent` does the same on W itself.
"""

from collections.abc import Callable, Collection
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from twolayer.xor.clusters import Labels, draw_blocks, draw_labels, gram_problem, output_signs
from twolayer.xor.config import XORConfig


class Snapshot(NamedTuple):
    """Where a network stands, for metrics."""

    train: Tensor
    """Pre-activations on training rows, ``[m, n_train]``."""
    test: Tensor
    """On test rows, ``[m, n_test]``."""
    means: Tensor
    """On mu_1 and mu_2, ``[m, 2]``."""
    linear: Tensor
    """<sum_i y_i x_i, x> of test rows, ``[n_test]``."""
    labels: Labels
    signs: Tensor
    """a, ``[m]``."""
    scale: float
    """alpha / (8 n): over it, the slope of f in `linear` is 1 if f is that linear classifier."""


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
        """One step; returns the loss before it."""
        loss, push = push_of(self._train, self.problem.signs, self.problem.labels.train, self.learning_rate)
        self._coefficients += push
        self._train = self.problem.weights_train + self._coefficients @ self.problem.train_train
        return {"loss": loss}

    def snapshot(self) -> Snapshot:
        """Where the network stands."""
        problem, coefficients = self.problem, self._coefficients
        return Snapshot(
            train=self._train,
            test=problem.weights_test + coefficients @ problem.test_train.T,
            means=problem.weights_means + coefficients @ problem.means_train.T,
            linear=problem.test_train @ problem.labels.train,
            labels=problem.labels,
            signs=problem.signs,
            scale=self.learning_rate / (8 * self.config.n_train),
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
        """One step; returns the loss before it."""
        loss, push = push_of(self._weights @ self._x.T, self._signs, self._labels.train, self.learning_rate)
        self._weights = self._weights + push @ self._x
        return {"loss": loss}

    def snapshot(self) -> Snapshot:
        """Where the network stands."""
        return Snapshot(
            train=self._weights @ self._x.T,
            test=self._weights @ self._x_test.T,
            means=self._weights @ self._means.T,
            linear=self._x_test @ (self._labels.train @ self._x),
            labels=self._labels,
            signs=self._signs,
            scale=self.learning_rate / (8 * self.config.n_train),
        )

    def projections(self) -> Tensor:
        """Cosines of the neurons with mu_1 and mu_2, ``[n_neurons, 2]``."""
        return self._weights @ self._means.T / (self._weights.norm(dim=1, keepdim=True) * self.config.norm)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        return {"weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._weights = state["weights"]


Descent = GramDescent | PlainDescent
DESCENTS: dict[Literal["gram", "plain"], type[Descent]] = {"gram": GramDescent, "plain": PlainDescent}


class MeasuredDescent:
    """A learner: a descent, and what was measured of it on its way; both are in the checkpoint.

    Args:
        descent: at step 0.
        steps: at which to measure, the start (0) included where it is among them.
        measure: of the descent and the step number, JSON-ready.
    """

    def __init__(
        self, descent: Descent, steps: Collection[int], measure: Callable[[Descent, int], dict[str, Any]]
    ) -> None:
        self._descent, self._steps, self._measure_at = descent, frozenset(steps), measure
        self._step_number = 0
        self.measured: list[dict[str, Any]] = []
        self._measure()

    def step(self, batch: object = None) -> dict[str, Tensor | float]:
        """One step of the descent."""
        metrics = self._descent.step(batch)
        self._step_number += 1
        self._measure()
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        return {"descent": self._descent.state_dict(), "step": self._step_number, "measured": self.measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._descent.load_state_dict(state["descent"])
        self._step_number, self.measured = state["step"], state["measured"]

    def _measure(self) -> None:
        if self._step_number in self._steps:
            self.measured.append(self._measure_at(self._descent, self._step_number))


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
