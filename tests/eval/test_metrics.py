import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import Accuracy, BalancedAccuracy, RSquared, values
from twolayer.estimator import ConvexReLURegressor


def r_squared(x: torch.Tensor, x_hat: torch.Tensor) -> float:
    metric = RSquared()
    metric.update(x, x_hat)
    return metric.value


def data(seed: int, n_rows: int = 50, d_in: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_rows, d_in, generator=generator, dtype=torch.float64) + 5
    return x, x + 0.3 * torch.randn(n_rows, d_in, generator=generator, dtype=torch.float64)


@given(st.integers(0, 10_000))
def test_r_squared_fixed_points(seed):
    x, _ = data(seed)
    assert r_squared(x, x) == 1.0
    assert r_squared(x, x.mean(dim=0).expand_as(x)) == pytest.approx(0.0, abs=1e-12)


@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_r_squared_is_invariant_under_scaling_both(seed, scale):
    x, x_hat = data(seed)
    assert r_squared(scale * x, scale * x_hat) == pytest.approx(r_squared(x, x_hat), rel=1e-9)


@given(st.integers(0, 10_000), st.floats(0.1, 10))
def test_r_squared_falls_when_the_reconstruction_is_shifted(seed, shift):
    x, _ = data(seed)
    assert r_squared(x, x + shift) < 1.0
    assert r_squared(x, x + 2 * shift) < r_squared(x, x + shift)


def test_r_squared_by_hand():
    x = torch.tensor([[0.0], [2.0], [4.0]])
    assert r_squared(x, torch.tensor([[1.0], [2.0], [4.0]])) == pytest.approx(1 - 1 / 8)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.lists(st.integers(2, 20), min_size=1, max_size=6))
def test_streaming_does_not_depend_on_the_pieces(seed, sizes):
    x, x_hat = data(seed, sum(sizes))
    metric = RSquared()
    for piece, piece_hat in zip(x.split(sizes), x_hat.split(sizes), strict=True):
        metric.update(piece, piece_hat)
    assert metric.value == pytest.approx(r_squared(x, x_hat), rel=1e-10)


def test_streaming_is_exact_far_from_zero():
    x, x_hat = data(0)
    assert r_squared(x + 1e6, x_hat + 1e6) == pytest.approx(r_squared(x, x_hat), rel=1e-6)


def test_no_rows_and_no_variance():
    assert math.isnan(RSquared().value)
    assert math.isnan(r_squared(torch.ones(3, 2), torch.ones(3, 2)))


def test_r_squared_of_targets_is_that_of_scikit_learn():
    from sklearn.metrics import r2_score

    x, y_hat = data(3)
    y = x[:, 0] ** 2
    assert r_squared(y, y_hat[:, 0]) == pytest.approx(r2_score(y.numpy(), y_hat[:, 0].numpy()), rel=1e-12)
    model = ConvexReLURegressor(n_patterns=5).fit(x.numpy(), y.numpy())
    predicted = torch.from_numpy(model.predict(x.numpy()))
    assert model.score(x.numpy(), y.numpy()) == pytest.approx(r_squared(y, predicted), rel=1e-12)


def test_accuracies_by_hand():
    y = torch.tensor([1.0, 1.0, 1.0, -1.0])
    accuracy, balanced = Accuracy("accuracy"), BalancedAccuracy("balanced")
    for piece in (slice(0, 1), slice(1, 4)):
        for metric in (accuracy, balanced):
            metric.update(y[piece], torch.tensor([2.0, 0.0, 3.0, -1.0])[piece])
    assert values([accuracy, balanced]) == {"accuracy": 0.75, "balanced": pytest.approx((2 / 3 + 1) / 2)}
    assert balanced.standard_error == pytest.approx((2 / 9 / 3) ** 0.5 / 2)


def test_accuracy_of_one_class_and_of_nothing():
    only = BalancedAccuracy("balanced")
    assert math.isnan(only.value)
    only.update(torch.ones(2), torch.tensor([1.0, -1.0]))
    assert only.value == 0.5
    assert math.isnan(Accuracy("accuracy").value)
