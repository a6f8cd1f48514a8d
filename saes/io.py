"""SAE folders: ``cfg.json`` + ``weights.safetensors``, acting on raw activations."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from core.model_folder import read_config, read_weights, write_model
from saes.architectures import architecture_of
from saes.sae import SAE


class SavedSAE(NamedTuple):
    """What an SAE folder holds."""

    sae: SAE
    metadata: dict[str, Any]
    """Where it was trained and how: hook_name, model, sparsity_coefficient, seed, ..."""


def save_sae(folder: Path, sae: SAE, metadata: dict[str, Any], *, unit: dict[str, Any] | None = None) -> None:
    """Write an SAE folder; ``cfg.json`` comes last, so a folder that has it is complete. ``unit``: what it was made from."""
    config = {"sae": sae.cfg.as_dict(), "metadata": metadata}
    write_model(folder, sae.state_dict(), config | ({} if unit is None else {"unit": unit}))


def load_sae(folder: Path | str, device: torch.device | str = "cpu") -> SAE:
    """A trained SAE that works on raw activations: ``encode``, ``decode``, ``forward``; parameters do not require gradients.

    Raises ValueError naming the file when the folder holds no complete SAE.
    """
    return read_sae(folder, device).sae


def read_sae(folder: Path | str, device: torch.device | str = "cpu") -> SavedSAE:
    """As `load_sae`, with the metadata."""
    folder = Path(folder)
    config = read_config(folder, "SAE", "runs/<study>/saes/<sae_id>")
    architecture = architecture_of(config.of(dict, "sae"))
    tensors = read_weights(folder, config, architecture.shapes)
    sae = SAE(architecture)
    sae.load_state_dict(tensors)
    return SavedSAE(sae.to(device).requires_grad_(False), config.of(dict, "metadata"))
