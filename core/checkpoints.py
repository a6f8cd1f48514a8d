"""Where the state of what is being trained is kept: `<name>.json` says which file holds it, of which step, made from what."""

import pickle
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core.files import DamagedFileError, check_name, read_json, sha256_file, write_atomically, write_json

State = dict[str, Any]
"""All that `core.trainer` saves at a step."""


class Begun(NamedTuple):
    """What is known of a checkpoint without reading it."""

    step: int
    unit: dict[str, Any]
    """What it is made from, as given to `Slot.save`."""


class Slot(NamedTuple):
    """The place of one thing's checkpoint. Two files take turns, so that a kill at any moment leaves one that is whole."""

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        """The file that makes a checkpoint count."""
        return self.folder / f"{check_name(self.name)}.json"

    def begun(self) -> Begun | None:
        """None where nothing is begun. Raises DamagedFileError."""
        if not self.path.is_file():
            return None
        there = self._pointer()
        return Begun(int(there["step"]), there["unit"])

    def save(self, state: State, unit: Mapping[str, Any]) -> None:
        """Write the state; the one before stays until it is written."""
        current = self._pointer()["file"] if self.path.is_file() else None
        name = self._files[current == self._files[0]]
        file = self.folder / name
        write_atomically(file, lambda temporary: torch.save(state, temporary))
        pointer = {"step": state["step"], "file": name, "state_sha256": sha256_file(file), "unit": dict(unit)}
        write_json(self.path, pointer)
        if current is not None:
            (self.folder / current).unlink(missing_ok=True)

    def load(self) -> State | None:
        """The state saved last, None where nothing is begun. Raises DamagedFileError, naming the file and the way out."""
        if not self.path.is_file():
            return None
        there = self._pointer()
        file = self.folder / there["file"]
        if not file.is_file() or sha256_file(file) != there["state_sha256"]:
            raise DamagedFileError(f"checkpoint {file} is missing or damaged; {self._way_out}")
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise DamagedFileError(f"checkpoint {file} cannot be read ({error}); {self._way_out}") from error

    def remove(self) -> None:
        """Forget the checkpoint, if there is one."""
        self.path.unlink(missing_ok=True)
        for name in self._files:
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # others are still there
            self.folder.rmdir()

    @property
    def _files(self) -> tuple[str, str]:
        return f"{self.name}.a.pt", f"{self.name}.b.pt"

    @property
    def _way_out(self) -> str:
        return f"delete {self.path} to train it from the start"

    def _pointer(self) -> dict[str, Any]:
        there = read_json(self.path, self._way_out)
        if there.get("file") not in self._files:
            raise DamagedFileError(
                f"{self.path} names {there.get('file')!r}, not one of {self._files}; {self._way_out}"
            )
        return there


def remove_strays(folder: Path) -> None:
    """Delete states that no checkpoint counts: left by a process that was killed while it saved or removed one."""
    for file in folder.glob("*.pt"):
        slot = Slot(folder, file.name.removesuffix(".pt")[:-2])
        if not slot.path.is_file() or read_json(slot.path, slot._way_out).get("file") != file.name:
            file.unlink(missing_ok=True)
