"""The run directory: the study as given last, logs, checkpoints; one process at a time. It knows no kind of study."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from core.checkpoints import Slot, remove_strays
from core.files import append_line, check_name, read_lines, remove_partial_files, write_text
from pipeline.progress import say
from pipeline.study import Study


class RunDirectory:
    """Paths inside a run directory, and its logs; a report may be written elsewhere (``out``)."""

    def __init__(self, path: Path, out: Path | None = None) -> None:
        self.path = path
        self.out = out or path
        """Where the report is written."""
        self.config_path = path / "config.yaml"
        self.stages_path = path / "stages.jsonl"
        self.eval_csv = path / "eval.csv"
        self.evaluated_path = path / "evaluated.json"
        """What eval.csv tells of."""
        self.verdicts_csv = self.out / "verdicts.csv"
        self.report_html = self.out / "report.html"

    def folder(self, things: str, name: str) -> Path:
        """Of one trained thing: ``saes/<sae_id>``, ``networks/<network_id>``."""
        return self.path / things / check_name(name)

    def names(self, things: str) -> list[str]:
        """Of the trained things that are here, of this study or of others."""
        return sorted(path.name for path in (self.path / things).glob("*") if not path.name.startswith("."))

    def slot(self, name: str) -> Slot:
        """Place of the checkpoint of something in training; gone when it is trained."""
        return Slot(self.path / "checkpoints", name)

    def metrics_path(self, name: str) -> Path:
        """Training metrics of one thing, a line per logged step; no step stands twice."""
        return self.path / "metrics" / f"{check_name(name)}.jsonl"

    def seconds_path(self, name: str) -> Path:
        """The time that its steps took; apart from all else, since two runs differ in it."""
        return self.path / "seconds" / f"{check_name(name)}.jsonl"

    def seconds(self, name: str) -> float | None:
        """That one thing's training took; None where that is not known."""
        lines = read_lines(self.seconds_path(name), ("step", "seconds"))
        return float(lines[-1]["seconds"]) if lines else None

    def stage_records(self) -> list[dict[str, Any]]:
        """What each stage took, in the order in which they ran."""
        return read_lines(self.stages_path, ("stage", "seconds", "peak_memory_bytes"))

    def append_stage(self, record: dict[str, Any]) -> None:
        """Add a line to stages.jsonl."""
        append_line(self.stages_path, record)


@contextmanager
def open_run(study: Study) -> Iterator[RunDirectory]:
    """Lock the study's run directory, making it if need be, and clear away what killed processes left.

    Raises ValueError when it holds a study of another kind, OSError when it cannot be written, RuntimeError when another
    process is at work in it.
    """
    path = study.run_path
    with exclusive(path, study.name):
        run = RunDirectory(path)
        _check_kind(run.config_path, study)
        remove_partial_files(path)
        remove_strays(path / "checkpoints")
        write_text(run.config_path, study.to_yaml())
        yield run


@contextmanager
def exclusive(folder: Path, who: str, *, waits: bool = False) -> Iterator[None]:
    """Hold a folder for this process alone, making it if need be; ``who`` is said to others.

    If another process holds it, wait for its end, saying for whom, or raise RuntimeError.
    """
    holder = folder / ".holder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        _acquire(lock, folder, holder, waits=waits)
    except PermissionError as error:
        raise OSError(f"{folder} cannot be written ({error}); give a run_dir where you may write") from error
    except (FileNotFoundError, NotADirectoryError, FileExistsError) as error:
        if folder.is_dir():
            raise
        raise OSError(f"{folder} cannot be made ({error}); give a run_dir where you may write") from error
    try:
        holder.write_text(f"study {who} (process {os.getpid()} on {platform.node()})", encoding="utf8")
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, folder: Path, holder: Path, *, waits: bool) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not waits:
            raise RuntimeError(f"{folder} is in use by {_named(holder)}; wait for it to end") from None
        say(f"waiting for {_named(holder)}, which is at work in {folder}")
        lock.acquire()


def _named(holder: Path) -> str:
    return holder.read_text(encoding="utf8") if holder.is_file() else "another process"


def _check_kind(path: Path, study: Study) -> None:
    """One directory holds one kind of study; its tables would overwrite each other's."""
    if not path.exists():
        return
    try:
        saved: Any = yaml.safe_load(path.read_text(encoding="utf8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return
    there, now = saved.get("kind") if isinstance(saved, dict) else None, study.to_dict()["kind"]
    if there is not None and there != now:
        raise ValueError(
            f"{path.parent} holds a study of another kind (kind: there {there}, now {now}); give another name or run_dir"
        )
