"""Peak memory of a stretch of work."""

import resource
import sys
from pathlib import Path

import torch

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def reset_peak_memory() -> None:
    """Start a new stretch (where the system can; elsewhere the peak is that of the whole process)."""
    if _CLEAR_REFS.exists():
        try:
            _CLEAR_REFS.write_text("5")
        except OSError:
            return
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_bytes() -> int:
    """Largest resident memory since the last reset, plus what was allocated on the current CUDA device."""
    on_device = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
    return _resident_peak() + on_device


def _resident_peak() -> int:
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
