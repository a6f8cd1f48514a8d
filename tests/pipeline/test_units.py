"""Units of work: what is made, what is kept, what is refused; and the one training loop."""

import json
from pathlib import Path

import pytest

from core.files import write_json
from core.trainer import NoBatches, StepRecord
from pipeline.run_dir import RunDirectory
from pipeline.units import Product, Training, Unit, learn, make_missing


def unit(folder: Path, name: str, needs: dict, made: list[str], *, may_be_redone: bool = False) -> Unit:
    product = Product(name, needs, [folder / f"{name}.json"], may_be_redone=may_be_redone)

    def make(missing, tick) -> None:
        for one in missing:
            tick(0.5, "half")
            made.append(one.name)
            write_json(folder / f"{one.name}.json", {"unit": one.signature})

    return Unit([product], make)


def test_only_what_is_missing_is_made(tmp_path):
    made: list[str] = []
    for _ in range(2):
        make_missing([unit(tmp_path, name, {"seed": 0}, made) for name in "ab"], title="t", counted="things")
    assert made == ["a", "b"]
    (tmp_path / "a.json").unlink()
    make_missing([unit(tmp_path, name, {"seed": 0}, made) for name in "ab"], title="t", counted="things")
    assert made == ["a", "b", "a"]


def test_what_was_made_from_other_needs_is_refused_or_redone(tmp_path):
    made: list[str] = []
    make_missing([unit(tmp_path, "a", {"seed": 0, "deep": {"x": [1]}}, made)], title="t", counted="things")
    with pytest.raises(ValueError, match=r"(?s)made from something else.*deep.x: there \[1\], now \[2\]\n"):
        make_missing([unit(tmp_path, "a", {"seed": 0, "deep": {"x": [2]}}, made)], title="t", counted="things")
    assert made == ["a"]
    make_missing([unit(tmp_path, "a", {"seed": 1}, made, may_be_redone=True)], title="t", counted="things")
    assert made == ["a", "a"]


def test_a_fingerprint_does_not_depend_on_the_order_of_needs():
    one, other = ({"a": 1, "b": [2, {"c": 3}]}, {"b": [2, {"c": 3}], "a": 1})
    assert Product("x", one, []).fingerprint == Product("x", other, []).fingerprint
    assert Product("x", one, []).fingerprint != Product("x", {**one, "a": 2}, []).fingerprint


class Counter:
    """A learner that counts, and fails once at a step."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.count, self.fails_at = 0, fails_at

    def step(self, batch: object) -> dict[str, float]:
        self.count += 1
        if self.count == self.fails_at:
            raise RuntimeError("power cut")
        return {"loss": 1.0 / self.count}

    def state_dict(self) -> dict:
        return {"count": self.count}

    def load_state_dict(self, state: dict) -> None:
        self.count = state["count"]


def train(run: RunDirectory, learner: Counter, published: list[StepRecord]) -> None:
    training = Training(
        name="counter",
        learner=learner,
        batches=NoBatches(),
        n_steps=10,
        checkpoint_every=4,
        key="id",
        ids=lambda: ["counter"],
        lines=lambda record: [{"id": "counter", **record.metrics}],
    )
    learn(run, training, published.append)


def test_a_training_that_fails_continues_and_no_line_stands_twice(tmp_path):
    run, published = RunDirectory(tmp_path), []
    run.metrics_path.write_text(json.dumps({"id": "other", "step": 99}) + "\n")
    with pytest.raises(RuntimeError, match="power cut"):
        train(run, Counter(fails_at=7), published)
    assert run.checkpoint_path("counter").exists()
    assert published == []
    train(run, Counter(), published)
    lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [99, *range(1, 11)]
    assert [record.step for record in published] == [10]
    assert not run.checkpoint_path("counter").exists()


def test_killed_between_the_last_step_and_publication(tmp_path):
    run, published = RunDirectory(tmp_path), []

    class Full(list):
        def append(self, _: object) -> None:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        train(run, Counter(), Full())
    train(run, Counter(), published)
    assert [record.step for record in published] == [10]
    assert len(run.metrics_path.read_text().splitlines()) == 10
