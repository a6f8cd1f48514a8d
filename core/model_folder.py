"""Folders of trained models, SAEs and networks alike: ``cfg.json`` + ``weights.safetensors``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from core.files import DamagedFileError, read_json, write_json
from core.tensors import read_tensors, tensor_shapes, write_tensors

FORMAT_VERSION = 2
CONFIG_FILE, WEIGHTS_FILE = "cfg.json", "weights.safetensors"
_WAY_OUT = "delete that folder and run dipole train again, or copy it anew"


def write_model(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write a folder; ``cfg.json`` comes last, so a folder that has it is complete."""
    digest = write_tensors(folder / WEIGHTS_FILE, tensors)
    write_json(folder / CONFIG_FILE, {"format_version": FORMAT_VERSION, "weights_sha256": digest, **config})


def is_model_complete(folder: Path) -> bool:
    """Whether the folder holds a complete model."""
    return (folder / CONFIG_FILE).is_file()


def read_config(folder: Path, what: str, example: str) -> dict[str, Any]:
    """Of the ``what`` in a folder. Raises ValueError naming the file, and an example, where there is none that can be read."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no complete {what} (no {CONFIG_FILE}); give a folder like {example}")
    config = read_json(path, _WAY_OUT)
    if config.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {config.get('format_version')!r}, this version reads {FORMAT_VERSION}"
        )
    return config


def read_weights(
    folder: Path, config: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]] | None
) -> dict[str, Tensor]:
    """The tensors that ``config`` describes; of the ``expected`` names and shapes, if given, before anything is allocated.

    Raises ValueError naming the file when it is missing, damaged, or holds something else.
    """
    path = folder / WEIGHTS_FILE
    shapes = tensor_shapes(path, _WAY_OUT)
    if expected is not None and shapes != dict(expected):
        names = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
        there, wanted = shapes.get(names[0], "absent"), expected.get(names[0], "absent")
        raise mismatch(folder, f"{names[0]} is {there}, not {wanted}")
    return read_tensors(path, config["weights_sha256"], _WAY_OUT)


def mismatch(folder: Path, why: object) -> ValueError:
    """The error of weights that are not those which the config describes."""
    return DamagedFileError(
        f"{folder / WEIGHTS_FILE} does not hold the weights {folder / CONFIG_FILE} describes: {why}"
    )
