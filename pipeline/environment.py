"""Versions and hardware, kept with everything that is made."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

_PACKAGES = ("dipole", "torch", "transformers", "transformer-lens", "datasets", "safetensors", "numpy", "pandas")
Environment = Mapping[str, str]


@cache
def environment() -> dict[str, str]:
    """Of this process."""
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


def counted(environments: Iterable[Environment]) -> list[tuple[int, dict[str, str]]]:
    """How many things were made in each of the environments, those of the first things first."""
    found: dict[tuple[tuple[str, str], ...], int] = {}
    for one in environments:
        key = tuple(one.items())
        found[key] = found.get(key, 0) + 1
    return [(count, dict(key)) for key, count in found.items()]


def _commit() -> str:
    here = Path(__file__).parent
    try:
        shown = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return shown.stdout.strip()
