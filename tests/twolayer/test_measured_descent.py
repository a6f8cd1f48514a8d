"""A descent that is measured on its way, and continued."""

from twolayer.xor.config import XORConfig
from twolayer.xor.descent import GramDescent, MeasuredDescent

SMALL = XORConfig(n_train=40, n_features=3000, n_test=50, n_neurons=20)


def descent() -> MeasuredDescent:
    def loss(one, step: int) -> dict:
        return {"step": step, "train": float(one.snapshot().train.sum())}

    return MeasuredDescent(GramDescent(SMALL, seed=1, learning_rate=1e-12), [0, 2, 5], loss)


def test_measurements_survive_an_interruption_and_none_stands_twice():
    whole, first, second = descent(), descent(), descent()
    for step in range(5):
        whole.step()
        if step < 2:
            first.step()
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        second.step()
    assert [one["step"] for one in whole.measured] == [0, 2, 5]
    assert second.measured == whole.measured
