"""The trainer core: iteration, checkpoints, exact resume, stopping, signals. It knows no SAE and no data.

    for record in fit(learner, batches, steps=1000, checkpoints=Checkpoints(slot.load, slot.save, every=200)):
        ...   # the caller logs, evaluates, shows progress, saves

Whatever the caller does between two steps, random numbers included, does not change what is learned.
"""

import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from core.checkpoints import State

Metrics = Mapping[str, Tensor | float]


class Learner(Protocol):
    """What the core asks of anything that learns by iterating."""

    def step(self, batch: Any) -> Metrics:
        """One update; returns metrics, ``loss`` among them."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        ...


class BatchSource(Protocol):
    """An endless stream of batches with a position."""

    def __next__(self) -> Any:
        """The next batch."""
        ...

    def where(self) -> str:
        """Where the batch given last came from, for error messages."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a position."""
        ...


class NoBatches:
    """The batch source of a learner that holds its data."""

    def __next__(self) -> None:
        return None

    def where(self) -> str:
        """Every row takes part in every step."""
        return "the whole training set"

    def state_dict(self) -> dict[str, Any]:
        """No position."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


class StepRecord(NamedTuple):
    """What one step did."""

    step: int
    """Steps done, this one included."""
    metrics: dict[str, float]
    seconds: float
    """Spent so far, by every process that worked on it; what was lost with a killed one is not counted."""


class Checkpoints(NamedTuple):
    """How the state is kept, and how often; it is also saved at the end and when a signal arrives."""

    load: Callable[[], State | None]
    """The state saved last; None where nothing is begun."""
    save: Callable[[State], None]
    """Keeps a state, whole, in place of the one before."""
    every: int
    """Steps between checkpoints."""


class NonFiniteLossError(ValueError):
    """The loss became NaN or infinite; the message names the step, the batch and the last finite metrics."""


class InterruptedTrainingError(RuntimeError):
    """SIGINT or SIGTERM arrived; the state is saved."""

    def __init__(self, signal_number: int, step: int, *, is_saved: bool) -> None:
        self.signal_number = signal_number
        kept = "it is saved, the same command continues from there" if is_saved else "nothing was saved"
        super().__init__(f"stopped by {signal.Signals(signal_number).name} after step {step}: {kept}")


def fit(
    learner: Learner,
    batches: BatchSource,
    *,
    steps: int,
    checkpoints: Checkpoints | None = None,
    stop: Callable[[StepRecord], bool] | None = None,
    began: float | None = None,
) -> Iterator[StepRecord]:
    """Drive ``learner`` to ``steps`` steps in all, continuing from its checkpoint if there is one.

    Yields a record after every step; continuing begins with the record of the step at which the checkpoint was saved, since
    the caller may not have lived to see it. ``stop`` (a tolerance, say) ends the loop after the step for which it is true,
    and a checkpoint saved then is not trained further. ``began`` is when work on it began (`time.monotonic`), now unless given.
    Raises NonFiniteLossError and InterruptedTrainingError; in the first case the last checkpoint stays as it was.
    """
    began = time.monotonic() if began is None else began
    resumed = _resume(learner, batches, checkpoints)
    done, spent = resumed.step, resumed.seconds
    last_finite: dict[str, float] = {}
    if resumed.metrics is not None:
        with _unobserved():
            yield StepRecord(done, resumed.metrics, spent)
    with _signals() as received:
        while done < steps and not resumed.is_stopped:
            metrics = {name: float(value) for name, value in learner.step(next(batches)).items()}
            done += 1
            if not math.isfinite(metrics["loss"]):
                raise NonFiniteLossError(
                    f"loss is {metrics['loss']} at step {done}, on {batches.where()}; "
                    f"last finite metrics: {_format(last_finite)}. "
                    "Lower the learning rate or lambda, or look at those rows"
                )
            last_finite = metrics
            record = StepRecord(done, metrics, spent + time.monotonic() - began)
            is_stopped = stop is not None and stop(record)
            is_last = done == steps or is_stopped
            if checkpoints and (is_last or done % checkpoints.every == 0 or received):
                checkpoints.save(_state(learner, batches, record, is_stopped=is_stopped))
            if received:
                raise InterruptedTrainingError(received[0], done, is_saved=checkpoints is not None)
            with _unobserved():
                yield record
            if is_last:
                break
        if received:  # while the last step was observed
            raise InterruptedTrainingError(received[0], done, is_saved=checkpoints is not None)


class _Resumed(NamedTuple):
    """Where a checkpoint stands."""

    step: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] | None = None
    """Of that step."""
    is_stopped: bool = False
    """Whether `stop` ended training there."""


def _state(learner: Learner, batches: BatchSource, record: StepRecord, *, is_stopped: bool) -> State:
    """Everything that continuing needs."""
    return {
        **record._asdict(),
        "is_stopped": is_stopped,
        "learner": learner.state_dict(),
        "batches": batches.state_dict(),
        "random": _random_state(),
    }


def _resume(learner: Learner, batches: BatchSource, checkpoints: Checkpoints | None) -> _Resumed:
    """Load the checkpoint, if there is one; returns where it stands."""
    state = checkpoints.load() if checkpoints else None
    if state is None:
        return _Resumed()
    learner.load_state_dict(state["learner"])
    batches.load_state_dict(state["batches"])
    _set_random_state(state["random"])
    return _Resumed(int(state["step"]), state["seconds"], state["metrics"], state["is_stopped"])


def _random_state() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 (the global state is what is kept)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": [version, list(words), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002


@contextmanager
def _unobserved() -> Iterator[None]:
    """Random numbers drawn by the observer inside the block leave the learner's stream untouched."""
    state = _random_state()
    try:
        yield
    finally:
        _set_random_state(state)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one kills as usual. Main thread only."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, _frame: object) -> None:
        received.append(number)
        restore()

    for number in previous:
        signal.signal(number, note)
    try:
        yield received
    finally:
        restore()


def _format(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()) or "none"
