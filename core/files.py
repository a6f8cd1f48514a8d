"""Files that are either whole or absent: write to a temporary name, fsync, rename."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEMPORARY_SUFFIX = ".partial"
_CHUNK_BYTES = 1 << 20


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write(temporary_path)``, fsync what it wrote and rename it to ``path``.

    A process killed at any moment leaves ``path`` as it was, and at most a ``*.partial`` file beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        write(temporary)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """Atomic text file, UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf8"))


def write_json(path: Path, value: Any) -> None:
    """Atomic JSON file: sorted by insertion, floats round-trip exactly, NaN refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file; ValueError names the file when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); delete it and run the stage again") from error


def remove_partial_files(folder: Path) -> int:
    """Delete what killed writers left below ``folder``; returns how many files that was."""
    leftovers = list(folder.rglob(f"*{TEMPORARY_SUFFIX}"))
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return len(leftovers)


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """Hex digest of a string."""
    return hashlib.sha256(text.encode("utf8")).hexdigest()


def _fsync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
