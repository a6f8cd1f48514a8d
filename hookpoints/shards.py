"""Activation shards: how rows are stored, checked and read back.

    activations/manifest.json                                what is here, and from where
    activations/tokens/shard-00000.safetensors               token_ids, sequence, position, document  [n_rows]
    activations/<hook_name>/shard-00000.safetensors          activations [n_rows, d_in] (int8: and scale [n_rows]), outliers
    activations/records/shard-00000.json                     counts, sums and checksums; written last: its shard is complete

Row i of every hook is the token in row i of the token shard.
"""

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.files import sha256_file, write_atomically
from hookpoints.config import Split
from hookpoints.manifest import MANIFEST, HookEntry, Manifest, read_manifest
from hookpoints.rows import decode_rows

TOKENS = "tokens"


class Rows(NamedTuple):
    """Activations of one hook in one shard."""

    activations: Tensor
    """``[n_rows, d_in]`` float32."""
    is_outlier: Tensor
    """``[n_rows]`` bool: norm over the filter's bound."""


class HookStatistics(NamedTuple):
    """Of the training rows that the norm-outlier filter kept."""

    mean: Tensor
    """``[d_in]`` float64."""
    mean_squared_centred_norm: float
    """Mean of ||x - mean||^2."""

    @property
    def scale(self) -> float:
        """The constant that makes the mean of ||x - mean||^2 equal to d_in (docs/method.md, "Rows")."""
        return (self.mean.shape[0] / self.mean_squared_centred_norm) ** 0.5


def shard_name(index: int) -> str:
    """``shard-00007``."""
    return f"shard-{index:05d}"


def shard_path(folder: Path, part: str, index: int) -> Path:
    """File of one shard; ``part`` is a hook name or ``tokens``."""
    return folder / part / f"{shard_name(index)}.safetensors"


def write_shard(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write one shard file atomically and return its SHA-256."""
    digest = ""

    def write(temporary: Path) -> None:
        nonlocal digest
        save_file(tensors, temporary)
        digest = sha256_file(temporary)

    write_atomically(path, write)
    return digest


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises ValueError naming the file when it is missing or broken."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; run dipole harvest again: it makes what is missing") from error
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or corrupted ({error}); delete it and run dipole harvest again"
        ) from error


class ActivationDataset:
    """The harvested activations of a folder, read shard by shard; every shard's checksum is verified on first use.

    Raises ValueError when the folder holds no complete harvest, and when a shard does not match the manifest.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        self._verified: set[tuple[str, int]] = set()

    @cached_property
    def hook_names(self) -> list[str]:
        """Hooks harvested, in the study's order."""
        return list(self.manifest.hooks)

    def d_in(self, hook_name: str) -> int:
        """Width of a hook's rows."""
        return self._hook(hook_name).d_in

    def statistics(self, hook_name: str) -> HookStatistics:
        """Mean and spread of the training rows. Raises ValueError where they are all alike: there is nothing to learn."""
        hook = self._hook(hook_name)
        if not hook.mean_squared_centred_norm > 0:
            raise ValueError(
                f"every training row of {hook_name} in {self.folder} is the same; choose another hookpoint"
            )
        mean = torch.tensor(hook.mean, dtype=torch.float64)
        return HookStatistics(mean, hook.mean_squared_centred_norm)

    def shards(self, split: Split) -> list[int]:
        """Indices of a split's shards."""
        return [index for index, shard in enumerate(self.manifest.shards) if shard.split == split]

    def n_kept_rows(self, hook_name: str, index: int) -> int:
        """Rows of a shard that the norm-outlier filter keeps."""
        shard = self.manifest.shards[index]
        return shard.n_rows - shard.hooks[hook_name].n_outliers

    def read(self, hook_name: str, index: int) -> Rows:
        """One shard of one hook."""
        stored = self._read_verified(hook_name, index)
        rows = decode_rows(stored)
        if rows.shape[1] != self.d_in(hook_name):
            raise ValueError(
                f"{shard_path(self.folder, hook_name, index)} has rows of width {rows.shape[1]}, "
                f"the manifest says {self.d_in(hook_name)}: it belongs to another model"
            )
        is_outlier = torch.zeros(len(rows), dtype=torch.bool)
        is_outlier[stored["outliers"]] = True
        return Rows(rows, is_outlier)

    def read_tokens(self, index: int) -> dict[str, Tensor]:
        """``token_ids``, ``sequence`` (context), ``position`` and ``document`` of every row of a shard."""
        return self._read_verified(TOKENS, index)

    def _read_verified(self, part: str, index: int) -> dict[str, Tensor]:
        path = shard_path(self.folder, part, index)
        if (part, index) not in self._verified:
            expected = self.manifest.shards[index].sha256[part]
            if path.is_file() and sha256_file(path) != expected:
                raise ValueError(
                    f"{path} does not match its checksum in {MANIFEST}: it is truncated, corrupted or of another model; "
                    "delete it and run dipole harvest again: it makes only what is missing"
                )
            self._verified.add((part, index))
        return read_tensors(path)

    def _hook(self, hook_name: str) -> HookEntry:
        if hook_name not in self.manifest.hooks:
            raise ValueError(f"{self.folder} holds no {hook_name}; it holds {', '.join(self.hook_names)}")
        return self.manifest.hooks[hook_name]
