"""What a harvest says about itself: the manifest that its shards add up to, and what a study sees of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import field_validator

from core.schema import Schema
from hookpoints.anatomy import Place
from hookpoints.config import SPLITS, Split
from hookpoints.contents import HarvestContents
from hookpoints.extents import Extent
from hookpoints.packing import Packing
from hookpoints.records import Dropped, parse_record
from hookpoints.sites import parse_hook_name

MANIFEST, PROOF = "manifest.json", "capture.json"


class ShardEntry(Schema):
    """What a manifest says of one shard."""

    split: Split
    """Which split its rows belong to."""
    n_rows: int
    """Rows stored."""
    n_dropped: Dropped
    """Rows that are not."""
    file_sha256: dict[str, str]
    """By part: a hook name, or `tokens`."""
    bytes: dict[str, int]
    """Size of each part's file."""
    n_outliers: dict[str, int]
    """Rows over the norm bound, by hook name."""


class HookEntry(Schema):
    """What a manifest says of one hook; moments are over the training rows that the norm filter keeps."""

    d_in: int
    """Width of its rows."""
    norm_bound: float | None
    """Norm over which a row is an outlier; None without the filter."""
    norm_gap: tuple[float, float] | None
    """Norms on both sides of the gap that the bound lies in; None where it is a multiple of the median."""
    norm_histogram: list[tuple[int, int]]
    """Of all rows, both splits, as `hookpoints.outliers.norm_histogram`."""
    largest_kept_norm: float
    """Largest norm that the filter keeps, both splits."""
    n_outliers: int
    """Rows over it, both splits."""
    mean_norm: float
    """Mean of ||x||."""
    mean_squared_norm: float
    """Mean of ||x||^2."""
    mean_squared_centred_norm: float
    """Mean of ||x - mean||^2."""
    storage_relative_error: float
    """Root of sum ||stored - captured||^2 / sum ||captured||^2."""
    mean: list[float]
    """`[d_in]`."""
    held_out_mean: list[float]
    """`[d_in]`, of the held-out rows that the filter keeps."""

    @property
    def mean_energy_fraction(self) -> float:
        """||mean||^2 over the mean of ||x||^2: how much of the rows' energy they all share."""
        return 1 - self.mean_squared_centred_norm / self.mean_squared_norm if self.mean_squared_norm else 0.0

    @property
    def weight_of_largest(self) -> float:
        """||x||^2 of the largest row kept over the mean of ||x - mean||^2; 1 where all rows are alike."""
        spread = self.mean_squared_centred_norm
        return self.largest_kept_norm**2 / spread if spread else 1.0


class CaptureProof(Schema):
    """What was proved of a model before its activations were trusted."""

    places: dict[str, Place]
    """Where each hookpoint is read, by hook name."""
    packing: Packing
    """Whether several pieces share a row of the model's input."""

    @field_validator("places")
    @classmethod
    def _hook_names(cls, places: dict[str, Place]) -> dict[str, Place]:
        """Hook names become paths, so they are read as what they are."""
        for name in places:
            parse_hook_name(name)
        return places


class HarvestNames(Schema):
    """What the model and the corpus of a folder were called when it was begun; other names for the same contents share it."""

    model: str
    """Name of the model."""
    revision: str
    """Its commit, `local` for a folder."""
    n_layers: int
    """Its blocks."""
    corpus: str
    """Name of the corpus."""


class Manifest(Schema):
    """Everything that a reader of a harvest needs; a function of its shards, so it carries no time."""

    names: HarvestNames
    """What its model and corpus were called."""
    contents: HarvestContents
    """What its rows are a function of, beside the text."""
    capture: CaptureProof
    """How its activations were read, with the proof."""
    extents: list[Extent]
    """How far the text reached each time that it was asked to; each holds those before it."""
    shards: list[ShardEntry]
    """By index."""
    hooks: dict[str, list[HookEntry]]
    """By hook name: what is known of its rows in each extent, as far as it was harvested."""
    environments: list[dict[str, str]]
    """Versions and hardware of its shards."""

    def at(self, hook_names: Sequence[str], extent: int) -> "View":
        """One extent, and some hooks."""
        return View(self, tuple(hook_names), extent)


class View(NamedTuple):
    """What a study sees of a harvest: one extent, and some hooks."""

    manifest: Manifest
    hook_names: tuple[str, ...]
    """In the study's order."""
    number: int
    """Of the extent."""

    @property
    def extent(self) -> Extent:
        """How far the text reaches."""
        return self.manifest.extents[self.number]

    @property
    def shards(self) -> list[ShardEntry]:
        """By index."""
        return self.manifest.shards[: self.extent.n_shards]

    @property
    def hooks(self) -> dict[str, HookEntry]:
        """By hook name."""
        return {name: self.manifest.hooks[name][self.number] for name in self.hook_names}

    @property
    def n_rows(self) -> dict[Split, int]:
        """Rows stored, by split."""
        return {split: sum(shard.n_rows for shard in self.shards if shard.split == split) for split in SPLITS}

    @property
    def n_dropped(self) -> Dropped:
        """Rows that are not stored."""
        dropped = [shard.n_dropped for shard in self.shards]
        return Dropped(
            first_position=sum(one.first_position for one in dropped),
            special_tokens=sum(one.special_tokens for one in dropped),
        )

    @property
    def n_tokens(self) -> int:
        """Tokens that the model read."""
        return sum(self.extent.n_contexts.values()) * self.manifest.contents.harvest.context_length


def read_manifest(folder: Path) -> Manifest:
    """Of a complete harvest. Raises ValueError when the folder holds none, and for a file of another form."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} holds no complete harvest (no {MANIFEST}); run dipole harvest first")
    return parse_record(Manifest, path)
