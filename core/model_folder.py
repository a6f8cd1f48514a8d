"""Folders of trained models, SAEs and networks alike: ``cfg.json`` + ``weights.safetensors``."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.files import read_json, write_atomically, write_json

FORMAT_VERSION = 1
CONFIG_FILE, WEIGHTS_FILE = "cfg.json", "weights.safetensors"


def write_model(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write a folder; ``cfg.json`` comes last, so a folder that has it is complete."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(folder / WEIGHTS_FILE, lambda temporary: save_file(on_cpu, temporary))
    write_json(folder / CONFIG_FILE, {"format_version": FORMAT_VERSION, **config})


def is_model_complete(folder: Path) -> bool:
    """Whether the folder holds a complete model."""
    return (folder / CONFIG_FILE).is_file()


def read_config(folder: Path, what: str, example: str) -> dict[str, Any]:
    """Of the ``what`` in a folder. Raises ValueError naming the file, and an example, where there is none that can be read."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no complete {what} (no {CONFIG_FILE}); give a folder like {example}")
    config = read_json(path)
    if config.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {config.get('format_version')!r}, this version reads {FORMAT_VERSION}"
        )
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Raises ValueError naming the file when it is missing or damaged."""
    try:
        return load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, FileNotFoundError) as error:
        raise mismatch(folder, error) from error


def mismatch(folder: Path, error: Exception) -> ValueError:
    """The error of weights that are not those which the config describes."""
    return ValueError(f"{folder / WEIGHTS_FILE} does not hold the weights {folder / CONFIG_FILE} describes: {error}")
