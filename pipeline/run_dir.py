"""The run directory: resolved study, versions, hardware, metrics; one process at a time. It knows no kind of study."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from pydantic import ValidationError

from core.files import read_json, write_json, write_text
from core.schema import differences
from pipeline.study import Study

_PACKAGES = ("dipole", "torch", "transformers", "transformer-lens", "datasets", "safetensors", "numpy", "pandas")


class RunDirectory:
    """Paths inside a run directory, and its logs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.environment_path = path / "environment.json"
        self.metrics_path = path / "metrics.jsonl"
        """Lines of training; those of steps that are done again are dropped, so that no step stands twice."""
        self.stages_path = path / "stages.jsonl"
        self.eval_csv = path / "eval.csv"
        self.verdicts_csv = path / "verdicts.csv"
        self.report_html = path / "report.html"

    def folder(self, things: str, name: str) -> Path:
        """Of one trained thing: ``saes/<sae_id>``, ``networks/<network_id>``."""
        return self.path / things / name

    def checkpoint_path(self, name: str) -> Path:
        """Checkpoint of something in training; gone when it is trained."""
        return self.path / "checkpoints" / f"{name}.pt"

    def environment(self) -> dict[str, Any]:
        """Versions and hardware of the run."""
        return read_json(self.environment_path)

    def stage_records(self) -> list[dict[str, Any]]:
        """What each stage took, in the order in which they ran."""
        if not self.stages_path.exists():
            return []
        return [json.loads(line) for line in self.stages_path.read_text().splitlines()]

    def append_stage(self, record: dict[str, Any]) -> None:
        """Add a line to stages.jsonl."""
        append_line(self.stages_path, record)

    def forget_metrics_after(self, key: str, identities: set[str], step: int) -> None:
        """Drop the lines about ``identities``, named under ``key``, past the step that they continue from, and torn lines."""
        if not self.metrics_path.exists():
            return
        lines = self.metrics_path.read_text(encoding="utf8").splitlines()
        records = [(line, json.loads(line)) for line in lines if line.endswith("}")]
        kept = [line for line, record in records if record[key] not in identities or record["step"] <= step]
        write_text(self.metrics_path, "".join(f"{line}\n" for line in kept))


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON object as a line."""
    with path.open("a", encoding="utf8") as handle:
        handle.write(json.dumps(record) + "\n")


@contextmanager
def open_run(study: Study) -> Iterator[RunDirectory]:
    """Lock the study's run directory, making it if need be.

    Raises ValueError when it holds another study (with the differences), OSError when it cannot be written, RuntimeError
    when another process is at work in it.
    """
    path = study.run_path
    with exclusive(path):
        run = RunDirectory(path)
        if run.config_path.exists():
            _check_same_study(run.config_path, study)
        else:
            write_text(run.config_path, study.to_yaml())
        write_json(run.environment_path, _environment())
        yield run


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone, making it if need be."""
    lock = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):
            lock.write_text(f"{os.getpid()} on {platform.node()}")
            yield
    except Timeout:
        holder = lock.read_text() if lock.exists() else ""
        raise RuntimeError(
            f"{folder} is in use by another process ({holder or 'unknown'}); wait for it to end, or give another run_dir"
        ) from None
    except PermissionError as error:
        raise OSError(f"{folder} cannot be written ({error}); give a run_dir where you may write") from error
    except (FileNotFoundError, NotADirectoryError, FileExistsError) as error:
        if folder.is_dir():
            raise
        raise OSError(f"{folder} cannot be made ({error}); give a run_dir where you may write") from error


def _check_same_study(path: Path, study: Study) -> None:
    """Settings that an earlier version did not know have their defaults in a study that it saved."""
    saved: Any = yaml.safe_load(path.read_text(encoding="utf8"))
    with suppress(
        ValidationError
    ):  # of another kind, or of a version that knew other settings: the differences say which
        saved = type(study).model_validate(saved).model_dump(mode="json")
    lines = differences(saved, study.model_dump(mode="json"))
    if lines:
        raise ValueError(
            f"{path.parent} holds another study than the one given:\n" + "\n".join(f"  {line}" for line in lines) + "\n"
            "Give another name or run_dir (--set run_dir=...), or delete that directory. A study with the same model, corpus "
            f"and harvest can share its activations (--set activations={path.parent / 'activations'})"
        )


def _environment() -> dict[str, Any]:
    import psutil
    import torch

    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        **versions,
        "commit": _commit(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads, {torch.backends.cpu.get_cpu_capability()}",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "accelerators": ", ".join(devices) or "none",
    }


def _commit() -> str:
    here = Path(__file__).parent
    try:
        shown = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return shown.stdout.strip()
