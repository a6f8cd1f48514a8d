"""Checkpoints: whole at every moment, and known to be what was written."""

import os
from pathlib import Path

import pytest
import torch

from core.checkpoints import Slot, remove_strays
from core.files import DamagedFileError, remove_partial_files


def state(step: int) -> dict:
    return {"step": step, "tensor": torch.full((4,), float(step))}


class Died(BaseException):
    """A kill, as far as files can tell."""


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_killed_at_any_moment_a_whole_state_is_left(tmp_path, monkeypatch, name):
    """Each fsync and each rename of three saves in turn: what is loaded is the state of a step that was saved, none before."""
    real, deaths, is_alive = getattr(os, name), 0, False
    while not is_alive:
        folder, left = tmp_path / f"{name}-{deaths}", [deaths]

        def dying(*arguments, left=left):
            if left[0] == 0:
                raise Died
            left[0] -= 1
            return real(*arguments)

        monkeypatch.setattr(os, name, dying)
        slot, done = Slot(folder, "one"), 0
        try:
            for step in (1, 2, 2):
                slot.save(state(step), {"made": "from"})
                done = step
            is_alive = True
        except Died:
            deaths += 1
        finally:
            monkeypatch.setattr(os, name, real)
        found = slot.load()
        assert (0 if found is None else found["step"]) in (done, done + 1)
        remove_partial_files(folder)
        remove_strays(folder)
        assert len(list(folder.glob("*.pt"))) == (found is not None)
        if found is not None:
            assert torch.equal(found["tensor"], state(found["step"])["tensor"])
            assert slot.begun() == (found["step"], {"made": "from"})
    assert deaths > 5


def test_flipped_bits_are_found(tmp_path):
    slot = Slot(tmp_path, "one")
    slot.save(state(3), {})
    for file in tmp_path.iterdir():
        whole = file.read_bytes()
        for place in range(0, len(whole), 37):
            damaged = bytearray(whole)
            damaged[place] ^= 16
            file.write_bytes(damaged)
            with pytest.raises(DamagedFileError, match=r"delete .*one.json to train it from the start"):
                slot.load()
        file.write_bytes(whole)
    slot.load()


def test_a_strangers_checkpoint_names_no_file_outside(tmp_path):
    from core.files import write_json

    (tmp_path / "inside").mkdir()
    write_json(tmp_path / "inside/one.json", {"step": 1, "file": "../outside.pt", "state_sha256": "0", "unit": {}})
    with pytest.raises(DamagedFileError, match=r"names '../outside.pt'"):
        Slot(tmp_path / "inside", "one").load()
    with pytest.raises(ValueError, match="no name of a file"):
        Slot(Path("."), "../one").begun()


def test_nothing_is_left_of_a_removed_checkpoint(tmp_path):
    slot = Slot(tmp_path / "checkpoints", "one")
    slot.save(state(1), {})
    slot.save(state(2), {})
    slot.remove()
    assert slot.load() is None
    assert list(tmp_path.iterdir()) == []
