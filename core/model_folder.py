"""Folders of trained models, SAEs and networks alike: ``cfg.json`` + ``weights.safetensors``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from core.files import DamagedFileError, read_json, write_json
from core.tensors import read_tensors, tensor_shapes, write_tensors

FORMAT_VERSION = 2
CONFIG_FILE, WEIGHTS_FILE = "cfg.json", "weights.safetensors"
Kind = TypeVar("Kind")
_WAY_OUT = "delete that folder and run dipole train again, or copy it anew"


def write_model(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write a folder; ``cfg.json`` comes last, so a folder that has it is complete."""
    weights = folder / WEIGHTS_FILE
    of_weights = {"weights_sha256": write_tensors(weights, tensors), "weights_bytes": weights.stat().st_size}
    write_json(folder / CONFIG_FILE, {"format_version": FORMAT_VERSION, **of_weights, **config})


def is_model_complete(folder: Path) -> bool:
    """Whether the folder holds a complete model."""
    return (folder / CONFIG_FILE).is_file()


def lacks_weights(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether the weights that ``cfg.json`` counts are not there, at their size; what they hold is verified when it is read."""
    path = folder / WEIGHTS_FILE
    return "weights_bytes" in config and not (path.is_file() and path.stat().st_size == config["weights_bytes"])


class Config(dict[str, Any]):
    """Of a model folder; what it lacks, or holds in another form, is a damaged file."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        super().__init__(values)
        self.path = path

    def of(self, kind: type[Kind], *keys: str) -> Kind:
        """The value at nested keys. Raises DamagedFileError where there is none of that kind."""
        value: Any = self
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            raise DamagedFileError(f"{self.path} holds no {'.'.join(keys)} ({kind.__name__}): {_WAY_OUT}")
        return value


def read_config(folder: Path, what: str, example: str) -> Config:
    """Of the ``what`` in a folder. Raises ValueError naming the file, and an example, where there is none that can be read."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no complete {what} (no {CONFIG_FILE}); give a folder like {example}")
    config = read_json(path, _WAY_OUT)
    if config.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {config.get('format_version')!r}, this version reads {FORMAT_VERSION}"
        )
    return Config(config, path)


def read_weights(folder: Path, config: Config, expected: Mapping[str, tuple[int, ...]] | None) -> dict[str, Tensor]:
    """The tensors that ``config`` describes; of the ``expected`` names and shapes, if given, before anything is allocated.

    Raises ValueError naming the file when it is missing, damaged, or holds something else.
    """
    path = folder / WEIGHTS_FILE
    shapes = tensor_shapes(path, _WAY_OUT)
    if expected is not None and shapes != dict(expected):
        names = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
        there, wanted = shapes.get(names[0], "absent"), expected.get(names[0], "absent")
        raise mismatch(folder, f"{names[0]} is {there}, not {wanted}")
    return read_tensors(path, config.of(str, "weights_sha256"), _WAY_OUT)


def mismatch(folder: Path, why: object) -> ValueError:
    """The error of weights that are not those which the config describes."""
    return DamagedFileError(
        f"{folder / WEIGHTS_FILE} does not hold the weights {folder / CONFIG_FILE} describes: {why}"
    )
