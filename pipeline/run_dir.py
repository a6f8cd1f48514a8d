"""The run directory: resolved config, versions, hardware, metrics; one process at a time."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from core.files import read_json, write_json, write_text
from core.model_folder import is_model_complete
from pipeline.studies.networks.study import AnyStudy
from pipeline.study_file import study_yaml

_PACKAGES = (
    "dipole",
    "torch",
    "transformers",
    "transformer-lens",
    "datasets",
    "safetensors",
    "numpy",
    "pandas",
)


class RunDirectory:
    """Paths inside a run directory, and its append-only logs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.environment_path = path / "environment.json"
        self.metrics_path = path / "metrics.jsonl"
        self.stages_path = path / "stages.jsonl"
        self.eval_csv = path / "eval.csv"

    def sae_folder(self, sae_id: str) -> Path:
        """Folder of one SAE."""
        return self.path / "saes" / sae_id

    def stopped_path(self, sae_id: str) -> Path:
        """Says why an SAE's training was stopped, where it was."""
        return self.sae_folder(sae_id) / "stopped.json"

    def is_done(self, sae_id: str) -> bool:
        """Whether training has nothing left to do for an SAE: it is saved, or was stopped."""
        return is_model_complete(self.sae_folder(sae_id)) or self.stopped_path(sae_id).exists()

    def stopped_saes(self, sae_ids: Iterable[str]) -> dict[str, str]:
        """Why each of these SAEs was stopped; those that were not are left out."""
        paths = {sae_id: self.stopped_path(sae_id) for sae_id in sae_ids}
        return {sae_id: read_json(path)["reason"] for sae_id, path in paths.items() if path.exists()}

    def checkpoint_path(self, name: str) -> Path:
        """Checkpoint of a bank in training; gone when it is trained."""
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

    def network_folder(self, network_id: str) -> Path:
        """Folder of one two-layer network."""
        return self.path / "networks" / network_id

    def descent_path(self, run_id: str) -> Path:
        """What was measured of one descent on XOR clusters."""
        return self.path / "descents" / f"{run_id}.json"

    def metric_records(self, key: str, identity: str) -> list[dict[str, Any]]:
        """The lines of one work unit, named by its ``key``."""
        if not self.metrics_path.exists():
            return []
        lines = self.metrics_path.read_text(encoding="utf8").splitlines()
        records = [json.loads(line) for line in lines if line.endswith("}")]
        return [record for record in records if record[key] == identity]

    def forget_metrics_after(self, identities: set[str], step: int, *, key: str = "sae_id") -> None:
        """Drop the lines of work units past the step they resume from, so that no step stands twice."""
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
def open_run(config: AnyStudy) -> Iterator[RunDirectory]:
    """Lock the study's run directory, making it if need be.

    Raises ValueError when it holds another study (with the differences), OSError when it cannot be written, RuntimeError
    when another process is at work in it.
    """
    path = config.run_path
    with exclusive(path):
        run = RunDirectory(path)
        if run.config_path.exists():
            _check_same_study(run.config_path, config)
        else:
            write_text(run.config_path, study_yaml(config))
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


def _check_same_study(path: Path, config: AnyStudy) -> None:
    saved = _flatten(yaml.safe_load(path.read_text(encoding="utf8")))
    given = _flatten(yaml.safe_load(study_yaml(config)))
    names = sorted(name for name in saved.keys() | given.keys() if saved.get(name) != given.get(name))
    if names:
        lines = [f"  {name}: there {saved.get(name, 'absent')!r}, now {given.get(name, 'absent')!r}" for name in names]
        raise ValueError(
            f"{path.parent} holds another study than the one given:\n" + "\n".join(lines) + "\n"
            "Give another name or run_dir (--set run_dir=...), or delete that directory. A study with the same model, corpus "
            f"and harvest can share its activations (--set activations={path.parent / 'activations'})"
        )


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for key, inner in value.items() for k, v in _flatten(inner, f"{prefix}{key}.").items()}
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return {k: v for index, inner in enumerate(value) for k, v in _flatten(inner, f"{prefix}{index}.").items()}
    return {prefix.removesuffix("."): value}


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
            ["git", "describe", "--always", "--dirty"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return shown.stdout.strip()
