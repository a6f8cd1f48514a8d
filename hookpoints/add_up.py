"""Records of shards -> the manifest: sums become means, whatever the shards were made by and when."""

from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from hookpoints.config import Split
from hookpoints.contents import HarvestContents
from hookpoints.extents import Extent
from hookpoints.manifest import CaptureProof, HarvestNames, HookEntry, Manifest, ShardEntry
from hookpoints.records import TOKENS, HookRecord, HookShardRecord, TokenRecord

_Records = list[tuple[Split, HookRecord]]
"""Of one hook, by shard."""


def add_up(
    names: HarvestNames,
    contents: HarvestContents,
    capture: CaptureProof,
    extents: list[Extent],
    tokens: list[TokenRecord],
    hooks: dict[str, list[HookShardRecord]],
) -> Manifest:
    """The manifest of a harvest from the records of all its shards; each hook's reach as far as it is harvested."""
    shards = [
        _shard_entry(record, {name: of[index] for name, of in hooks.items() if index < len(of)})
        for index, record in enumerate(tokens)
    ]
    environments: list[dict[str, str]] = []
    for record in (record for records in hooks.values() for record in records):
        if record.environment not in environments:
            environments.append(record.environment)
    return Manifest(
        names=names,
        contents=contents,
        capture=capture,
        extents=extents,
        shards=shards,
        hooks={name: _by_extent(name, shards, of, extents) for name, of in hooks.items()},
        environments=environments,
    )


def _shard_entry(tokens: TokenRecord, hooks: dict[str, HookShardRecord]) -> ShardEntry:
    return ShardEntry(
        split=tokens.split,
        n_rows=tokens.n_rows,
        n_dropped=tokens.n_dropped,
        file_sha256={TOKENS: tokens.file_sha256} | {name: record.file_sha256 for name, record in hooks.items()},
        bytes={TOKENS: tokens.bytes} | {name: record.bytes for name, record in hooks.items()},
        n_outliers={name: record.rows.n_outliers for name, record in hooks.items()},
    )


def _by_extent(
    name: str, shards: list[ShardEntry], records: list[HookShardRecord], extents: list[Extent]
) -> list[HookEntry]:
    rows: _Records = [(shard.split, record.rows) for shard, record in zip(shards, records, strict=False)]
    return [_hook_entry(name, rows[: extent.n_shards]) for extent in extents if extent.n_shards <= len(rows)]


class _Kept(NamedTuple):
    """The rows of one hook in one split that the norm filter keeps."""

    n_rows: int
    mean: Tensor
    """``[d_in]`` float64."""
    entries: list[HookRecord]
    squared_distance: float
    """Sum of ||x - mean||^2, from that about each shard's own mean."""


def _kept(name: str, split: Split, records: _Records) -> _Kept:
    entries = [record for of_split, record in records if of_split == split]
    n_rows = torch.tensor([entry.n_rows - entry.n_outliers for entry in entries], dtype=torch.float64)
    if not float(n_rows.sum()) > 0:
        words = split.replace("_", "-")
        raise ValueError(f"{name}: no {words} row is left after the filters; give more tokens or looser filters")
    sums = torch.tensor([entry.sum for entry in entries], dtype=torch.float64)
    mean = sums.sum(dim=0) / n_rows.sum()
    between = (sums / n_rows.clamp_min(1)[:, None] - mean).square().sum(dim=1) @ n_rows
    within = sum(entry.sum_squared_centred_norm for entry in entries)
    return _Kept(int(n_rows.sum()), mean, entries, within + float(between))


def _hook_entry(name: str, records: _Records) -> HookEntry:
    train, held_out = _kept(name, "train", records), _kept(name, "held_out", records)
    everything = [record for _, record in records]
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
