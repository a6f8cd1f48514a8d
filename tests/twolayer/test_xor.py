"""XOR clusters: plain descent against Gram-matrix descent, autograd, and the theorem's claims at a quick setting."""

import pytest
import torch

from eval.xor.metrics import measure
from twolayer.xor.clusters import draw_blocks, draw_labels, output_signs
from twolayer.xor.config import XORConfig
from twolayer.xor.descent import GramDescent, PlainDescent

SMALL = XORConfig(n_train=40, n_features=5000, n_test=50, n_neurons=20)
QUICK = XORConfig(n_features=8000, n_neurons=200, n_test=400, is_balanced=True)


def test_plain_and_gram_descent_agree_to_rounding():
    gram, plain = (kind(SMALL, seed=3, learning_rate=1e-12) for kind in (GramDescent, PlainDescent))
    for _ in range(12):
        assert float(gram.step()["loss"]) == pytest.approx(float(plain.step()["loss"]), rel=1e-12)
        one, other = measure(gram.snapshot()), measure(plain.snapshot())
        assert one == pytest.approx(other, rel=1e-9, nan_ok=True)
        torch.testing.assert_close(gram.projections(), plain.projections(), rtol=0, atol=1e-12)


def test_a_step_is_that_of_autograd():
    plain = PlainDescent(SMALL, seed=0, learning_rate=1e-3)
    x, _, start, _ = (torch.cat(parts, dim=1) for parts in zip(*draw_blocks(SMALL, 0), strict=True))
    weights = start.clone().requires_grad_()
    f = output_signs(SMALL) @ (weights @ x.T).clamp_min(0)
    loss = torch.nn.functional.softplus(-draw_labels(SMALL, 0).train * f).mean()
    (gradient,) = torch.autograd.grad(loss, weights)
    plain.step()
    torch.testing.assert_close(plain.state_dict()["weights"], start - 1e-3 * gradient, rtol=1e-10, atol=0)


def test_claims_of_the_theorem():
    """Medians over ten seeds: linear and memorising after one step, generalising by step 20."""
    measured: dict[int, list] = {1: [], 10: [], 20: []}
    for seed in range(10):
        descent = GramDescent(QUICK, seed=seed, learning_rate=1e-12)
        for step in range(1, 21):
            descent.step()
            if step in measured:
                measured[step].append(measure(descent.snapshot()))

    def median(step: int, name: str) -> float:
        return float(torch.tensor([one[name] for one in measured[step]]).median())

    assert median(1, "train_accuracy") == 1
    assert 0.45 <= median(1, "test_accuracy") <= 0.57
    assert 0.9 <= median(1, "linear_slope") <= 1.1
    assert median(10, "own_feature_share") >= 0.99
    assert median(20, "test_accuracy") >= 0.95
    assert median(20, "flipped_fit") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_neurons": 3}, "n_neurons is 3; half of the output weights"),
        ({"flip_fraction": 0.5}, "flip_fraction is 0.5"),
        ({"n_train": 10, "is_balanced": True}, "n_train is 10; four clusters of equal size"),
        ({"n_features": 1}, "n_features is 1; it must be 2 or more"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        XORConfig(**change)
