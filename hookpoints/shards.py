"""Activation shards: how rows are stored, checked and read back.

    activations/manifest.json                                what is here, and from where
    activations/tokens/shard-00000.safetensors               token_ids, sequence, position, document  [n_rows]
    activations/<hook_name>/shard-00000.safetensors          activations [n_rows, d_in] (int8: and scale [n_rows]), outliers
    activations/records/<part>/shard-00000.json              counts, sums and checksums; written last: its file is complete

Row i of every hook is the token in row i of the token shard.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from core.tensors import read_tensors, write_tensors
from hookpoints.config import Split
from hookpoints.manifest import HookEntry, ShardEntry, View, read_manifest
from hookpoints.records import TOKENS
from hookpoints.rows import decode_rows
from hookpoints.sites import parse_hook_name

_WAY_OUT = "delete it and run dipole harvest again: it makes only what is missing"


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
    """File of one shard; ``part`` is a hook name or ``tokens``. Raises ValueError for any other string: it becomes a path."""
    return folder / _checked(part) / f"{shard_name(index)}.safetensors"


def record_path(folder: Path, part: str, index: int) -> Path:
    """The file that makes it count."""
    return folder / "records" / _checked(part) / f"{shard_name(index)}.json"


def _checked(part: str) -> str:
    return part if part == TOKENS else parse_hook_name(part).name


def is_stored(folder: Path, part: str, index: int, shard: ShardEntry) -> bool:
    """Whether a file that a manifest names is there, at its size."""
    file = shard_path(folder, part, index)
    return part in shard.bytes and file.is_file() and file.stat().st_size == shard.bytes[part]


def write_shard(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write one shard file atomically and return its SHA-256."""
    return write_tensors(path, tensors)


class ActivationDataset:
    """Harvested activations of a folder, read shard by shard; every shard's checksum is verified on first use.

    Args:
        folder: of the activations.
        hook_names: hooks that are wanted; all that are whole unless given.
        extent: how much of the text; all of it unless given.

    Raises ValueError when the folder holds no complete harvest, or not of these hooks, and when a shard does not match the
    manifest.
    """

    def __init__(self, folder: Path, hook_names: Sequence[str] | None = None, extent: int | None = None) -> None:
        self.folder = folder
        manifest = read_manifest(folder)
        number = len(manifest.extents) - 1 if extent is None else extent
        there = [name for name, entries in manifest.hooks.items() if len(entries) > number]
        wanted = there if hook_names is None else list(hook_names)
        missing = [name for name in wanted if name not in there]
        if missing:
            raise ValueError(
                f"{folder} holds no {missing[0]} for all of its text; it holds {', '.join(there) or 'no hook'}; run dipole "
                "harvest first"
            )
        self.view: View = manifest.at(wanted, number)
        self._verified: set[tuple[str, int]] = set()

    @property
    def hook_names(self) -> list[str]:
        """Hooks that are wanted, in their order."""
        return list(self.view.hook_names)

    def within(self, extent: int) -> "ActivationDataset":
        """The same hooks, of less or more of the text."""
        return ActivationDataset(self.folder, self.view.hook_names, extent)

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
        return [index for index, shard in enumerate(self.view.shards) if shard.split == split]

    def n_kept_rows(self, hook_name: str, index: int) -> int:
        """Rows of a shard that the norm-outlier filter keeps."""
        shard = self.view.shards[index]
        return shard.n_rows - shard.n_outliers[hook_name]

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
        is_new = (part, index) not in self._verified
        expected = self.view.shards[index].file_sha256[part] if is_new else None
        tensors = read_tensors(shard_path(self.folder, part, index), expected, _WAY_OUT)
        self._verified.add((part, index))
        return tensors

    def _hook(self, hook_name: str) -> HookEntry:
        if hook_name not in self.view.hook_names:
            raise ValueError(f"{self.folder} holds no {hook_name}; it holds {', '.join(self.hook_names)}")
        return self.view.hooks[hook_name]
