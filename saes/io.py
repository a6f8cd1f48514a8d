"""SAE folders: ``cfg.json`` + ``weights.safetensors``, acting on raw activations."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hookpoints.files import read_json, write_atomically, write_text
from saes.sae import SAE, config_dict, sae_config

FORMAT_VERSION = 1
_CONFIG_FILE, _WEIGHTS_FILE = "cfg.json", "weights.safetensors"


class SavedSAE(NamedTuple):
    """What an SAE folder holds."""

    sae: SAE
    metadata: dict[str, Any]
    """Where it was trained and how: hook_name, model, sparsity_coefficient, seed, ..."""


def save_sae(folder: Path, sae: SAE, metadata: dict[str, Any]) -> None:
    """Write an SAE folder; ``cfg.json`` comes last, so a folder that has it is complete."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sae.state_dict().items()}
    write_atomically(folder / _WEIGHTS_FILE, lambda temporary: save_file(tensors, temporary))
    config = {"format_version": FORMAT_VERSION, "sae": config_dict(sae.cfg), "metadata": metadata}
    write_text(folder / _CONFIG_FILE, json.dumps(config, indent=1) + "\n")


def is_saved(folder: Path) -> bool:
    """Whether the folder holds a complete SAE."""
    return (folder / _CONFIG_FILE).is_file()


def load_sae(folder: Path | str, device: torch.device | str = "cpu") -> SAE:
    """A trained SAE that works on raw activations: ``encode``, ``decode``, ``forward``; parameters do not require gradients.

    Raises ValueError naming the file when the folder holds no complete SAE.
    """
    return read_sae(Path(folder), device).sae


def read_sae(folder: Path, device: torch.device | str = "cpu") -> SavedSAE:
    """As `load_sae`, with the metadata."""
    path = folder / _CONFIG_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no complete SAE (no {_CONFIG_FILE}); give a folder like runs/<study>/saes/<sae_id>"
        )
    config = read_json(path)
    if config.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {config.get('format_version')!r}, this version reads {FORMAT_VERSION}"
        )
    sae = SAE(sae_config(config["sae"]))
    try:
        tensors = load_file(folder / _WEIGHTS_FILE)
        sae.load_state_dict(tensors)
    except (SafetensorError, FileNotFoundError, RuntimeError) as error:
        raise ValueError(f"{folder / _WEIGHTS_FILE} does not hold the weights {path} describes: {error}") from error
    return SavedSAE(sae.to(device).requires_grad_(False), config["metadata"])
