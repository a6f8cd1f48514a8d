"""What a harvest says about itself: its identity, a record of every shard, and the manifest that they add up to."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from core.files import read_json
from core.schema import Schema
from hookpoints.anatomy import Place
from hookpoints.config import SPLITS, HarvestConfig, Split
from hookpoints.contexts import ContextCounts
from hookpoints.corpus import CorpusConfig
from hookpoints.outliers import NormBound
from hookpoints.packing import Packing

MANIFEST = "manifest.json"
Record = TypeVar("Record", bound=Schema)


class HarvestIdentity(Schema):
    """What the rows of a folder are a function of; folders and studies with another one do not mix."""

    model: str
    """Name of the model."""
    revision: str
    """Its commit, `local` for a folder."""
    model_hash: str
    """SHA-256 over its parameters and buffers, in `model_dtype`."""
    model_dtype: str
    """In which it was computed."""
    tokenizer_hash: str
    """SHA-256 over its tokenizer's definition."""
    corpus: str
    """Name of the corpus."""
    corpus_config: CorpusConfig
    """As the study gave it."""
    harvest: HarvestConfig
    """As the study gave it."""


class Dropped(Schema):
    """Rows that are not stored."""

    first_position: int
    """First positions of pieces."""
    special_tokens: int
    """Special tokens at other positions."""


class HookRecord(Schema):
    """Sums over one hook's rows in one shard; those without `all_rows` are over the rows that the norm filter keeps."""

    norm_bound: float | None
    """Norm over which a row is an outlier; None without the filter."""
    norm_gap: tuple[float, float] | None
    """Norms on both sides of the gap that the bound lies in; None where it is a multiple of the median."""
    n_outliers: int
    """Rows over it."""
    sum: list[float]
    """Of the rows, `[d_in]`."""
    sum_norm: float
    """Of their norms."""
    sum_squared_norm: float
    """Of their squared norms."""
    sum_squared_centred_norm: float
    """Of their squared distances from their own mean."""
    sum_squared_norm_all_rows: float
    """Of squared norms, with the outliers."""
    largest_kept_norm: float
    """Largest norm that the filter keeps."""
    norm_histogram: list[tuple[int, int]]
    """Of all rows, as `hookpoints.outliers.norm_histogram`."""
    sum_squared_storage_error: float
    """Of ||stored - captured||^2, over all rows."""

    @property
    def bound(self) -> NormBound | None:
        """The filter's."""
        return None if self.norm_bound is None else NormBound(self.norm_bound, self.norm_gap)


class ShardRecord(Schema):
    """One shard; written last, so that its shard counts."""

    split: Split
    """Which split its rows belong to."""
    n_rows: int
    """Rows stored."""
    n_dropped: Dropped
    """Rows that are not."""
    sha256: dict[str, str]
    """By part: a hook name, or `tokens`."""
    bytes: dict[str, int]
    """Size of each part's file."""
    hooks: dict[str, HookRecord]
    """By hook name."""


class ShardHook(Schema):
    """What a manifest says of one hook in one shard."""

    n_outliers: int
    """Rows over the norm bound."""


class ShardEntry(Schema):
    """What a manifest says of one shard."""

    split: Split
    """Which split its rows belong to."""
    n_rows: int
    """Rows stored."""
    sha256: dict[str, str]
    """By part: a hook name, or `tokens`."""
    hooks: dict[str, ShardHook]
    """By hook name."""


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


class CaptureProof(Schema):
    """What was proved of a model before its activations were trusted."""

    places: dict[str, Place]
    """Where each hookpoint is read, by hook name in the study's order."""
    packing: Packing
    """Whether several pieces share a row of the model's input."""
    bos_token_ids: list[int]
    """Tokens that start every piece; none where `prepend_bos` is off, or null and the tokenizer adds none by itself."""


class Manifest(HarvestIdentity):
    """Everything that a reader of a harvest needs; a function of its shards, so it carries no time and no machine."""

    capture: CaptureProof
    """How its activations were read, with the proof."""
    corpus_hash: str
    """SHA-256 over the documents read."""
    n_documents: int
    """Documents read."""
    n_contexts: dict[Split, int]
    """By split."""
    n_tokens: int
    """Tokens that the model read."""
    n_rows: dict[Split, int]
    """Rows stored, by split."""
    n_dropped: Dropped
    """Rows that are not stored."""
    hooks: dict[str, HookEntry]
    """By hook name, in the study's order."""
    shards: list[ShardEntry]
    """By index."""


def read_manifest(folder: Path) -> Manifest:
    """Of a complete harvest. Raises ValueError when the folder holds none, and for a file of another form."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} holds no complete harvest (no {MANIFEST}); run dipole harvest first")
    return parse_record(Manifest, path)


def parse_record(kind: type[Record], path: Path) -> Record:
    """A JSON file as a typed record. Raises ValueError naming the file, the place in it and the way out."""
    value: Any = read_json(path)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "the whole file"
        raise ValueError(
            f"{path} is not what this version of dipole writes ({place}: {problem['msg']}): it is damaged, or an earlier "
            "version made it; set activations to another folder, or delete this one and run dipole harvest again"
        ) from error


def add_up(
    identity: HarvestIdentity, capture: CaptureProof, counts: ContextCounts, records: list[ShardRecord]
) -> Manifest:
    """The manifest of a harvest from the records of all its shards."""
    hook_names = list(capture.places)
    shards = [
        ShardEntry(
            split=record.split,
            n_rows=record.n_rows,
            sha256=record.sha256,
            hooks={name: ShardHook(n_outliers=record.hooks[name].n_outliers) for name in hook_names},
        )
        for record in records
    ]
    dropped = [record.n_dropped for record in records]
    return Manifest(
        **dict(identity),
        capture=capture,
        corpus_hash=counts.corpus_hash,
        n_documents=counts.n_documents,
        n_contexts={"train": counts.train, "held_out": counts.held_out},
        n_tokens=(counts.train + counts.held_out) * identity.harvest.context_length,
        n_rows={split: sum(record.n_rows for record in records if record.split == split) for split in SPLITS},
        n_dropped=Dropped(
            first_position=sum(one.first_position for one in dropped),
            special_tokens=sum(one.special_tokens for one in dropped),
        ),
        hooks={name: _hook_entry(name, records) for name in hook_names},
        shards=shards,
    )


class _Kept(NamedTuple):
    """The rows of one hook in one split that the norm filter keeps."""

    n_rows: int
    mean: Tensor
    """``[d_in]`` float64."""
    entries: list[HookRecord]
    squared_distance: float
    """Sum of ||x - mean||^2, from that about each shard's own mean."""


def _kept(name: str, split: Split, records: list[ShardRecord]) -> _Kept:
    of_split = [record for record in records if record.split == split]
    entries = [record.hooks[name] for record in of_split]
    n_rows = torch.tensor([record.n_rows - record.hooks[name].n_outliers for record in of_split], dtype=torch.float64)
    if not float(n_rows.sum()) > 0:
        words = split.replace("_", "-")
        raise ValueError(f"{name}: no {words} row is left after the filters; give more tokens or looser filters")
    sums = torch.tensor([entry.sum for entry in entries], dtype=torch.float64)
    mean = sums.sum(dim=0) / n_rows.sum()
    between = (sums / n_rows.clamp_min(1)[:, None] - mean).square().sum(dim=1) @ n_rows
    within = sum(entry.sum_squared_centred_norm for entry in entries)
    return _Kept(int(n_rows.sum()), mean, entries, within + float(between))


def _hook_entry(name: str, records: list[ShardRecord]) -> HookEntry:
    train, held_out = _kept(name, "train", records), _kept(name, "held_out", records)
    everything = [record.hooks[name] for record in records]
    squared = sum(entry.sum_squared_norm_all_rows for entry in everything)
    error = sum(entry.sum_squared_storage_error for entry in everything)
    histogram: Counter[int] = Counter()
    for entry in everything:
        histogram.update(dict(entry.norm_histogram))
    return HookEntry(
        d_in=len(train.mean),
        norm_bound=everything[0].norm_bound,
        norm_gap=everything[0].norm_gap,
        norm_histogram=sorted(histogram.items()),
        largest_kept_norm=max(entry.largest_kept_norm for entry in everything),
        n_outliers=sum(entry.n_outliers for entry in everything),
        mean_norm=sum(entry.sum_norm for entry in train.entries) / train.n_rows,
        mean_squared_norm=sum(entry.sum_squared_norm for entry in train.entries) / train.n_rows,
        mean_squared_centred_norm=train.squared_distance / train.n_rows,
        storage_relative_error=(error / squared) ** 0.5 if squared else 0.0,
        mean=train.mean.tolist(),
        held_out_mean=held_out.mean.tolist(),
    )
