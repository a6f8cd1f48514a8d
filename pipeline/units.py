"""Units of work: what each needs, how it is made, and how one tells that it is done.

A product (an SAE, a network, a descent, an evaluation) is a function of its needs and of nothing else. A unit makes one or more
of them; `make_missing` makes what is not there yet, and `learn` is the one loop of everything that is trained by steps.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.files import read_json
from core.schema import differences
from core.trainer import BatchSource, Checkpoints, Learner, StepRecord, fit
from pipeline.progress import Display, progress
from pipeline.run_dir import RunDirectory, append_line

Tick = Callable[[float, str], None]
"""Called with how much of a unit is done, in the units of its products' sizes, and a note."""


class Product(NamedTuple):
    """Something that a unit leaves behind."""

    name: str
    needs: Mapping[str, Any]
    """What it is a function of, JSON-ready."""
    files: Sequence[Path]
    """JSON files, written last, any of which says that it is done; they hold `signature` under `unit`."""
    size: int = 1
    """What it counts for in the display."""
    may_be_redone: bool = False
    """Whether one made from other needs is made anew, rather than refused."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over its needs."""
        canonical = json.dumps(self.needs, sort_keys=True, allow_nan=False)
        return hashlib.sha256(canonical.encode("utf8")).hexdigest()

    @property
    def signature(self) -> dict[str, Any]:
        """What is stored with it: fingerprint and needs."""
        return {"fingerprint": self.fingerprint, "needs": dict(self.needs)}

    def is_done(self) -> bool:
        """Whether it is there, made from the same needs; one of an earlier version, which stored none, counts.

        Raises ValueError, naming what differs, when it was made from other needs and may not be redone.
        """
        done = next((file for file in self.files if file.is_file()), None)
        if done is None:
            return False
        stored = read_json(done).get("unit")
        if stored is None or stored["fingerprint"] == self.fingerprint:
            return True
        if self.may_be_redone:
            return False
        listed = "\n".join(f"  {line}" for line in differences(stored["needs"], self.needs))
        raise ValueError(
            f"{done.parent} was made from something else than the study describes:\n{listed}\n"
            "Give another name or run_dir, or delete that folder"
        )


class Unit(NamedTuple):
    """One piece of work."""

    products: Sequence[Product]
    make: Callable[[Sequence[Product], Tick], None]
    """Makes the products given, those that are missing."""


def missing_products(units: Sequence[Unit]) -> list[str]:
    """Names of the products that are not there yet."""
    return [product.name for unit in units for product in unit.products if not product.is_done()]


def make_missing(units: Sequence[Unit], *, title: str, counted: str) -> None:
    """Make what is missing, unit by unit, with one display that counts ``counted`` things."""
    todo = [(unit, [product for product in unit.products if not product.is_done()]) for unit in units]
    total = sum(product.size for _, missing in todo for product in missing)
    with progress(title, total, counted) as display:
        done = 0
        for unit, missing in todo:
            if missing:
                unit.make(missing, _tick(display, done))
                done += sum(product.size for product in missing)
                display.update(done, missing[-1].name)


def _tick(display: Display, done: int) -> Tick:
    return lambda amount, note: display.update(done + amount, note)


class Training(NamedTuple):
    """How something learns, for `learn`."""

    name: str
    """Of its checkpoint."""
    learner: Learner
    batches: BatchSource
    n_steps: int
    checkpoint_every: int
    key: str
    """Under which a line of metrics.jsonl names what it is about."""
    ids: Callable[[], Iterable[str]]
    """What lines are about; those of a step that is done again are dropped first."""
    lines: Callable[[StepRecord], Iterable[Mapping[str, Any]]] = lambda record: ()
    """Lines of metrics.jsonl for a step; ``step`` is added."""
    show: Callable[[StepRecord], None] = lambda record: None
    """Told of every step, for the display."""
    stop: Callable[[StepRecord], bool] | None = None
    began: float | None = None
    """When work on it began, if not just now."""


def learn(run: RunDirectory, training: Training, publish: Callable[[StepRecord], None]) -> None:
    """Train to the end, continuing from a checkpoint if there is one, then publish; the checkpoint goes when that is done.

    ``publish`` is called with the last record.
    """
    checkpoints = Checkpoints(run.checkpoint_path(training.name), training.checkpoint_every)
    last: StepRecord | None = None
    for record in fit(
        training.learner,
        training.batches,
        steps=training.n_steps,
        checkpoints=checkpoints,
        stop=training.stop,
        began=training.began,
    ):
        if last is None:
            run.forget_metrics_after(training.key, set(training.ids()), record.step - 1)
        for line in training.lines(record):
            append_line(run.metrics_path, {**line, "step": record.step})
        training.show(record)
        last = record
    if last is None:
        raise ValueError(
            f"checkpoint {checkpoints.path} is of an earlier version and holds no record of its last step; delete it"
        )
    publish(last)
    checkpoints.path.unlink(missing_ok=True)
