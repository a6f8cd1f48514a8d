import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from core.checkpoints import Slot
from core.trainer import Checkpoints, InterruptedTrainingError, NonFiniteLossError, fit


class Walk:
    """A learner that draws on every source of random numbers."""

    def __init__(self, poison_step: int | None = None) -> None:
        self.position = torch.zeros(3)
        self.steps = 0
        self.poison_step = poison_step

    def step(self, batch: torch.Tensor) -> dict[str, torch.Tensor | float]:
        self.steps += 1
        self.position += batch + torch.randn(3) + random.random() + np.random.rand()  # noqa: NPY002
        loss = self.position.pow(2).sum()
        return {"loss": loss if self.steps != self.poison_step else loss * float("nan"), "steps": self.steps}

    def state_dict(self) -> dict:
        return {"position": self.position, "steps": self.steps}

    def load_state_dict(self, state: dict) -> None:
        self.position, self.steps = state["position"], state["steps"]


class Numbers:
    def __init__(self) -> None:
        self.given = 0

    def __next__(self) -> torch.Tensor:
        self.given += 1
        return torch.full((3,), float(self.given))

    def where(self) -> str:
        return f"batch {self.given}"

    def state_dict(self) -> dict:
        return {"given": self.given}

    def load_state_dict(self, state: dict) -> None:
        self.given = state["given"]


def kept_in(folder: Path, every: int) -> Checkpoints:
    slot = Slot(folder, "c")
    return Checkpoints(slot.load, lambda state: slot.save(state, {}), every)


def seed() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002


def walk(steps: int, **options) -> torch.Tensor:
    learner = Walk()
    for _ in fit(learner, Numbers(), steps=steps, **options):
        pass
    return learner.position


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    seed()
    whole = walk(20)
    checkpoints = kept_in(tmp_path, every=3)
    seed()
    for record in fit(Walk(), Numbers(), steps=20, checkpoints=checkpoints):
        if record.step == 10:
            break  # dies between two checkpoints: the last one is of step 9
    torch.manual_seed(99)
    learner = Walk()
    steps = [record.step for record in fit(learner, Numbers(), steps=20, checkpoints=checkpoints)]
    assert steps == list(range(9, 21)), "the checkpoint's own step is told again: who died may not have seen it"
    assert torch.equal(learner.position, whole)


def test_observing_changes_nothing():
    seed()
    whole = walk(10)
    seed()
    learner = Walk()
    for _ in fit(learner, Numbers(), steps=10):
        torch.randn(5)
        random.random()
        np.random.rand()  # noqa: NPY002
    assert torch.equal(learner.position, whole)


def test_non_finite_loss_names_step_batch_and_last_metrics(tmp_path):
    checkpoints = kept_in(tmp_path, every=2)
    with pytest.raises(
        NonFiniteLossError, match=r"loss is nan at step 5, on batch 5; last finite metrics: loss .*, steps 4"
    ):
        for _ in fit(Walk(poison_step=5), Numbers(), steps=9, checkpoints=checkpoints):
            pass
    state = checkpoints.load()
    assert state is not None
    assert state["step"] == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_checkpoint_and_leave(tmp_path, number):
    seed()
    whole = walk(12)
    checkpoints = kept_in(tmp_path, every=100)
    before = signal.getsignal(number)
    seed()
    with pytest.raises(
        InterruptedTrainingError, match=rf"{number.name} after step 5: it is saved, the same command continues"
    ) as caught:
        for record in fit(Walk(), Numbers(), steps=12, checkpoints=checkpoints):
            if record.step == 4:
                signal.raise_signal(number)
    assert caught.value.signal_number == number
    assert signal.getsignal(number) is before
    assert torch.equal(walk(12, checkpoints=checkpoints), whole)


def test_stop_rule():
    records = list(fit(Walk(), Numbers(), steps=50, stop=lambda record: record.metrics["steps"] >= 7))
    assert [record.step for record in records] == list(range(1, 8))


def test_finished_training_tells_its_last_step_and_takes_no_other(tmp_path):
    checkpoints = kept_in(tmp_path, every=5)
    seed()
    *_, last = fit(Walk(), Numbers(), steps=5, checkpoints=checkpoints)
    assert list(fit(Walk(), Numbers(), steps=5, checkpoints=checkpoints)) == [last]


def test_a_training_that_was_stopped_stays_stopped(tmp_path):
    """Killed after the checkpoint and before the caller published: what is published later is the same."""
    checkpoints = kept_in(tmp_path, every=100)

    def stop(record) -> bool:
        return record.step >= 7

    seed()
    first = Walk()
    for record in fit(first, Numbers(), steps=50, checkpoints=checkpoints, stop=stop):
        if record.step == 7:
            break
    again = Walk()
    assert [record.step for record in fit(again, Numbers(), steps=50, checkpoints=checkpoints, stop=stop)] == [7]
    assert torch.equal(again.position, first.position)


def test_seconds_survive_an_interruption(tmp_path):
    checkpoints = kept_in(tmp_path, every=1)
    for record in fit(Walk(), Numbers(), steps=9, checkpoints=checkpoints, began=time.monotonic() - 100):
        if record.step == 3:
            break
    seconds = [record.seconds for record in fit(Walk(), Numbers(), steps=9, checkpoints=checkpoints)]
    assert seconds == sorted(seconds)
    assert 100 <= seconds[0] < 200


def test_a_signal_while_the_last_step_is_observed_is_not_lost(tmp_path):
    """It came after the last checkpoint, and nothing else would hear of it."""
    checkpoints = kept_in(tmp_path, every=100)
    with pytest.raises(InterruptedTrainingError, match="SIGTERM after step 5"):
        for record in fit(Walk(), Numbers(), steps=5, checkpoints=checkpoints):
            if record.step == 5:
                signal.raise_signal(signal.SIGTERM)
    assert [record.step for record in fit(Walk(), Numbers(), steps=5, checkpoints=checkpoints)] == [5]
