"""Units of work: what is made, what is kept, what is refused; and the one training loop."""

from pathlib import Path

import pytest

from core.files import read_lines, write_json
from core.trainer import NoBatches, StepRecord
from pipeline.run_dir import RunDirectory
from pipeline.units import Product, Training, Unit, checkpoints_of, learn, look, make_missing, redone


def unit(folder: Path, name: str, needs: dict, made: list[str], **options) -> Unit:
    product = Product(name, needs, [folder / f"{name}.json"], **options)

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
    make_missing([unit(tmp_path, "a", {"seed": 1}, made, is_redone=redone)], title="t", counted="things")
    assert made == ["a", "a"]


def test_what_was_made_from_other_needs_may_be_kept(tmp_path):
    made: list[str] = []

    def kept(there) -> str | None:
        return "as it is" if there["rows"] < 3 else None

    make_missing([unit(tmp_path, "a", {"rows": 2}, made)], title="t", counted="things")
    found = look(unit(tmp_path, "a", {"rows": 4}, made, kept=kept).products[0])
    assert (found.is_done, found.note, found.product.needs) == (True, "as it is", {"rows": 2})
    with pytest.raises(ValueError, match=r"rows: there 2, now 5"):
        look(unit(tmp_path, "a", {"rows": 5}, made).products[0])


def test_a_file_that_does_not_say_what_it_was_made_from(tmp_path):
    write_json(tmp_path / "a.json", {"value": 1})
    with pytest.raises(ValueError, match=r"does not say what it was made from: it is of an earlier version"):
        look(unit(tmp_path, "a", {}, []).products[0])


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


def product_of(run: RunDirectory) -> Product:
    return Product("counter", {"from": "nothing"}, [], slot=run.slot("counter"))


def train(run: RunDirectory, learner: Counter, published: list[StepRecord]) -> None:
    product = product_of(run)
    training = Training(
        products=[product],
        learner=learner,
        batches=NoBatches(),
        n_steps=10,
        checkpoints=checkpoints_of(product, every=4),
        lines=lambda record: [("counter", record.metrics)],
    )
    learn(run, training, published.append)


def steps(run: RunDirectory) -> list[int]:
    logs = (run.metrics_path("counter"), run.seconds_path("counter"))
    metrics, seconds = ([line["step"] for line in read_lines(log)] for log in logs)
    assert metrics == seconds
    return metrics


def test_a_training_that_fails_continues_and_no_line_stands_twice(tmp_path):
    run, published = RunDirectory(tmp_path), []
    with pytest.raises(RuntimeError, match="power cut"):
        train(run, Counter(fails_at=7), published)
    assert look(product_of(run)).step == 4
    assert published == []
    train(run, Counter(), published)
    assert steps(run) == list(range(1, 11))
    assert [record.step for record in published] == [10]
    assert not list(tmp_path.rglob("*.pt"))


def test_a_checkpoint_of_other_needs_is_refused(tmp_path):
    run = RunDirectory(tmp_path)
    with pytest.raises(RuntimeError, match="power cut"):
        train(run, Counter(fails_at=7), [])
    with pytest.raises(
        ValueError, match=r"counter.json was begun from something else .*\n  from: there 'nothing', now 'x'"
    ):
        look(product_of(run)._replace(needs={"from": "x"}))


def test_killed_between_the_last_step_and_publication(tmp_path):
    run, published = RunDirectory(tmp_path), []

    class Full(list):
        def append(self, _: object) -> None:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        train(run, Counter(), Full())
    train(run, Counter(), published)
    assert [record.step for record in published] == [10]
    assert steps(run) == list(range(1, 11))
