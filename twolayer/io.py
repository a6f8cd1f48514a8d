"""Network folders: ``cfg.json`` + ``weights.safetensors``, acting on raw rows."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hookpoints.files import read_json, write_atomically, write_text
from twolayer.data import Preparation
from twolayer.network import Network

FORMAT_VERSION = 1
_CONFIG_FILE, _WEIGHTS_FILE = "cfg.json", "weights.safetensors"


class SavedNetwork(NamedTuple):
    """What a network folder holds."""

    network: Network
    """Acts on prepared rows."""
    preparation: Preparation
    metadata: dict[str, Any]
    """How it was trained and what its certificate says."""
    point: Tensor | None
    """``[2, n_patterns, d]`` of a convex program, to warm-start the next beta from."""

    def __call__(self, x: Tensor) -> Tensor:
        """Predictions ``[n]`` on raw rows ``[n, d_raw]``; for labels, their sign."""
        return self.network(self.preparation(x))


def save_network(folder: Path, saved: SavedNetwork) -> None:
    """Write a network folder; ``cfg.json`` comes last, so a folder that has it is complete."""
    tensors = {
        "hidden": saved.network.hidden,
        "output": saved.network.output,
        "shift": saved.preparation.shift,
        "projection": saved.preparation.projection,
        **({} if saved.point is None else {"point": saved.point}),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(folder / _WEIGHTS_FILE, lambda temporary: save_file(tensors, temporary))
    config = {"format_version": FORMAT_VERSION, "has_bias": saved.preparation.has_bias, "metadata": saved.metadata}
    write_text(folder / _CONFIG_FILE, json.dumps(config, indent=1, allow_nan=False) + "\n")


def is_network_saved(folder: Path) -> bool:
    """Whether the folder holds a complete network."""
    return (folder / _CONFIG_FILE).is_file()


def load_network(folder: Path | str) -> SavedNetwork:
    """A trained network that works on raw rows. Raises ValueError naming the file when the folder holds no complete one."""
    path = Path(folder) / _CONFIG_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no complete network (no {_CONFIG_FILE}); give a folder like runs/<study>/networks/<network_id>"
        )
    config = read_json(path)
    if config.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {config.get('format_version')!r}, this version reads {FORMAT_VERSION}"
        )
    try:
        tensors: dict[str, torch.Tensor] = load_file(Path(folder) / _WEIGHTS_FILE)
        network = Network(tensors["hidden"], tensors["output"])
        preparation = Preparation(tensors["shift"], tensors["projection"], config["has_bias"])
    except (SafetensorError, FileNotFoundError, KeyError) as error:
        raise ValueError(
            f"{Path(folder) / _WEIGHTS_FILE} does not hold the weights {path} describes: {error}"
        ) from error
    return SavedNetwork(network, preparation, config["metadata"], tensors.get("point"))
