"""Progress of long work: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_PLAIN_SECONDS = 10.0


class Meter:
    """How fast work goes, counting only what was done since the meter started."""

    def __init__(self, total: int, unit: str) -> None:
        self.total = total
        self.unit = unit
        self._started = time.monotonic()
        self._already: float | None = None
        self.done = 0.0

    def update(self, done: float) -> None:
        """``done`` of ``total``; the first call says where a resumed job starts."""
        if self._already is None:
            self._already = done
            self._started = time.monotonic()
        self.done = done

    @property
    def rate(self) -> float:
        """Units per second."""
        seconds = time.monotonic() - self._started
        return (self.done - (self._already or 0)) / seconds if seconds > 0 else 0.0

    def text(self) -> str:
        """``123,000 of 400,000 tokens, 2,300 tokens/s, 2:01 left``."""
        text = f"{int(self.done):,} of {self.total:,} {self.unit}"
        if self.rate > 0:
            left = int((self.total - self.done) / self.rate)
            rate = f"{self.rate:,.0f}" if self.rate >= 10 else f"{self.rate:.2f}"
            text += f", {rate} {self.unit}/s, {duration(left)} left"
        return text


def duration(seconds: float) -> str:
    """``0:07``, ``12:34``, ``3:02:01``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Display:
    """Shows a meter. ``update(done, note)`` may be called as often as one likes."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        self._title = title
        self._meter = Meter(total, unit)
        self._last_line = time.monotonic()

    def set_total(self, total: int) -> None:
        """Correct the total once it is known."""
        self._meter.total = total

    def update(self, done: float, note: str = "") -> None:
        """Say how far the work is."""
        self._meter.update(done)
        if time.monotonic() - self._last_line >= _PLAIN_SECONDS:
            self._last_line = time.monotonic()
            say(self._line(note))

    def _line(self, note: str) -> str:
        return f"{self._title}: {self._meter.text()}" + (f" | {note}" if note else "")


class _BarDisplay(Display):
    def __init__(self, title: str, total: int, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__(title, total, unit)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
        )
        self._bar.start()
        self._task = self._bar.add_task(title, total=total, text="")

    def update(self, done: float, note: str = "") -> None:
        self._meter.update(done)
        self._bar.update(
            self._task,
            completed=done,
            total=self._meter.total,
            text=self._meter.text() + (f" | {note}" if note else ""),
        )

    def stop(self) -> None:
        self._bar.stop()


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Display]:
    """A display for one piece of work."""
    if not sys.stderr.isatty():
        yield Display(title, total, unit)
        return
    display = _BarDisplay(title, total, unit)
    try:
        yield display
    finally:
        display.stop()


def say(line: str) -> None:
    """One line for the person at the terminal; standard output stays free for results."""
    print(line, file=sys.stderr, flush=True)
