"""Harvest: contexts through the model, activations of several hooks to shuffled shards, one forward pass for all.

Each shard is a function of the configuration and its index, so a killed harvest started again makes only what is missing
and ends byte-identical to one that was never killed.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from core.files import remove_partial_files, write_json
from hookpoints.capture import ActivationCapture
from hookpoints.config import SPLITS, HarvestConfig, Split
from hookpoints.contexts import TOKEN_DTYPE, ContextCounts, build_contexts, read_contexts, separating_mask
from hookpoints.corpus import CorpusConfig, documents
from hookpoints.identity import check_identity, identity_of
from hookpoints.manifest import MANIFEST, Dropped, HookRecord, ShardRecord, add_up, parse_record, read_manifest
from hookpoints.models import LanguageModel
from hookpoints.rows import bytes_per_row, measure_and_encode
from hookpoints.shards import TOKENS, shard_name, shard_path, write_shard
from hookpoints.sites import Hookpoint, resolve_hookpoint

_TOKEN_ROW_BYTES = 16
_DISK_MARGIN = 1.02


class Progress(NamedTuple):
    """One step of a harvest, for whoever displays it."""

    n_tokens: int
    """Tokens finished so far, those of shards found complete included."""
    total_tokens: int
    n_bytes: int
    """Bytes of the shards written or found."""


class _Shard(NamedTuple):
    number: int
    split: Split
    start: int
    stop: int


class _Raw(NamedTuple):
    """A shard's rows on the CPU, in the order of the contexts."""

    tokens: dict[str, Tensor]
    activations: dict[str, Tensor]
    n_dropped: Dropped


def harvest(
    language_model: LanguageModel, corpus: CorpusConfig, config: HarvestConfig, folder: Path
) -> Iterator[Progress]:
    """Make every shard that ``folder`` lacks, then the manifest; yields after every forward pass and every shard.

    Raises ValueError (another harvest in the folder, empty corpus, a site the model lacks, non-finite activations) and
    OSError (disk too small) before anything half written could count as done.
    """
    hookpoints = [resolve_hookpoint(hookpoint, language_model.n_layers) for hookpoint in config.hookpoints]
    if len(set(hookpoints)) < len(hookpoints):
        raise ValueError(f"harvest.hookpoints names one twice: {', '.join(h.name for h in hookpoints)}")
    with ActivationCapture(language_model.model, hookpoints):
        pass  # a site the model lacks is said before anything is written
    _check_disk(config, language_model.d_model, folder)
    remove_partial_files(folder)
    identity = identity_of(language_model, corpus, config)
    check_identity(folder, identity)
    counts = build_contexts(
        folder / "contexts",
        documents(corpus),
        language_model.tokenizer,
        context_length=config.context_length,
        prepend_bos=config.prepend_bos,
        n_train=config.n_contexts["train"],
        n_held_out=config.n_contexts["held_out"],
        held_out_fraction=config.held_out_fraction,
        seed=config.seed,
    )
    shards = _plan(config, counts)
    yield from _make_missing(language_model, config, folder, hookpoints, shards)
    records = [_read_record(folder, shard.number) for shard in shards]
    manifest = add_up(identity, [hookpoint.name for hookpoint in hookpoints], counts, records)
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def is_complete(folder: Path) -> bool:
    """Whether the folder holds a manifest and every shard it names, at its size (checksums are verified when read)."""
    if not (folder / MANIFEST).is_file():
        return False
    return all(_shard_is_complete(folder, index) for index in range(len(read_manifest(folder).shards)))


def disk_bytes(config: HarvestConfig, d_in: int) -> int:
    """Upper bound of what the harvest writes for a model of width ``d_in``."""
    per_row = len(config.hookpoints) * bytes_per_row(d_in, config.dtype) + _TOKEN_ROW_BYTES + TOKEN_DTYPE.itemsize
    return config.n_tokens * per_row


def _plan(config: HarvestConfig, counts: ContextCounts) -> list[_Shard]:
    step = config.shard_contexts
    starts: list[tuple[Split, int]] = [(split, start) for split in SPLITS for start in range(0, counts.of(split), step)]
    return [
        _Shard(number, split, start, min(start + step, counts.of(split)))
        for number, (split, start) in enumerate(starts)
    ]


def _make_missing(
    language_model: LanguageModel,
    config: HarvestConfig,
    folder: Path,
    hookpoints: list[Hookpoint],
    shards: list[_Shard],
) -> Iterator[Progress]:
    total = sum(shard.stop - shard.start for shard in shards) * config.context_length
    done_tokens, done_bytes = 0, 0
    pending: Future[None] | None = None
    names = [hookpoint.name for hookpoint in hookpoints]
    # Shard 0 is awaited, since its median norm is every later shard's reference; and on the CPU every shard is, since two
    # pools of threads on the same cores cost the forward pass more than they save.
    is_accelerated = language_model.model.device.type != "cpu"
    with ActivationCapture(language_model.model, hookpoints) as capture, ThreadPoolExecutor(1) as writer:
        for shard in shards:
            n_tokens = (shard.stop - shard.start) * config.context_length
            n_bytes = n_tokens * len(names) * bytes_per_row(language_model.d_model, config.dtype)
            if not _shard_is_complete(folder, shard.number):
                batches: list[_Raw] = []
                for batch in _capture_shard(language_model, config, capture, folder, shard):
                    batches.append(batch)
                    captured = min(len(batches) * config.batch_contexts * config.context_length, n_tokens)
                    yield Progress(done_tokens + captured, total, done_bytes)
                if pending is not None:
                    pending.result()
                pending = writer.submit(_finish_shard, config, folder, names, shard, batches)
                if shard.number == 0 or not is_accelerated:
                    pending.result()
            done_tokens += n_tokens
            done_bytes += n_bytes
        if pending is not None:
            pending.result()


def _capture_shard(
    language_model: LanguageModel, config: HarvestConfig, capture: ActivationCapture, folder: Path, shard: _Shard
) -> Iterator[_Raw]:
    model = language_model.model
    special = torch.tensor(sorted(language_model.tokenizer.all_special_ids), dtype=torch.int64)
    for start in range(shard.start, shard.stop, config.batch_contexts):
        stop = min(start + config.batch_contexts, shard.stop)
        contexts = read_contexts(folder / "contexts", shard.split, start, stop, config.context_length)
        positions = contexts.position_ids.to(model.device)
        mask = separating_mask(positions, model.dtype)
        with torch.inference_mode():
            captured = capture.run(contexts.input_ids.to(model.device), mask, None if mask is None else positions)
        is_first = (
            contexts.position_ids == 0 if config.drop_first_position else torch.zeros_like(contexts.position_ids).bool()
        )
        is_special = (
            torch.isin(contexts.input_ids, special) if config.drop_special_tokens else torch.zeros_like(is_first)
        )
        keep = ~(is_first | is_special)
        sequence = torch.arange(start, stop, dtype=torch.int32)[:, None].expand_as(keep)
        yield _Raw(
            {
                "token_ids": contexts.input_ids[keep].int(),
                "sequence": sequence[keep],
                "position": contexts.position_ids[keep].int(),
                "document": contexts.documents[keep],
            },
            {name: value[keep.to(value.device)].cpu() for name, value in captured.items()},
            Dropped(first_position=int(is_first.sum()), special_tokens=int((is_special & ~is_first).sum())),
        )


def _finish_shard(config: HarvestConfig, folder: Path, names: list[str], shard: _Shard, batches: list[_Raw]) -> None:
    """Shuffle, filter, measure, store; the record comes last and makes the shard count."""
    tokens = {key: torch.cat([batch.tokens[key] for batch in batches]) for key in batches[0].tokens}
    n_rows = len(tokens["token_ids"])
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + shard.number)
    order = torch.randperm(n_rows, generator=generator)
    checksums = {
        TOKENS: write_shard(shard_path(folder, TOKENS, shard.number), {k: v[order] for k, v in tokens.items()})
    }
    hooks: dict[str, HookRecord] = {}
    for name in names:
        rows = torch.cat([batch.activations.pop(name) for batch in batches])[order]
        bound = None if shard.number == 0 else _read_record(folder, 0).hooks[name].norm_bound
        hooks[name], stored = measure_and_encode(
            rows,
            config.dtype,
            norm_outlier_factor=config.norm_outlier_factor,
            norm_bound=bound,
            where=f"{name}, {shard_name(shard.number)}",
        )
        checksums[name] = write_shard(shard_path(folder, name, shard.number), stored)
    dropped = Dropped(
        first_position=sum(batch.n_dropped.first_position for batch in batches),
        special_tokens=sum(batch.n_dropped.special_tokens for batch in batches),
    )
    sizes = {part: shard_path(folder, part, shard.number).stat().st_size for part in checksums}
    record = ShardRecord(
        split=shard.split, n_rows=n_rows, n_dropped=dropped, sha256=checksums, bytes=sizes, hooks=hooks
    )
    write_json(_record_path(folder, shard.number), record.model_dump(mode="json"))


def _check_disk(config: HarvestConfig, d_in: int, folder: Path) -> None:
    existing_parent = next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())
    present = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0
    needed = int(disk_bytes(config, d_in) * _DISK_MARGIN) - present
    free = shutil.disk_usage(existing_parent).free
    if needed > free:
        raise OSError(
            f"the harvest needs {needed / 1e9:.1f} GB more in {folder} and {free / 1e9:.1f} GB are free; lower "
            "harvest.n_tokens, use harvest.dtype: int8 or fewer hookpoints, or set activations to a folder on another disk"
        )


def _record_path(folder: Path, index: int) -> Path:
    return folder / "records" / f"{shard_name(index)}.json"


def _read_record(folder: Path, index: int) -> ShardRecord:
    return parse_record(ShardRecord, _record_path(folder, index))


def _shard_is_complete(folder: Path, index: int) -> bool:
    if not _record_path(folder, index).is_file():
        return False
    sizes = _read_record(folder, index).bytes
    files = {part: shard_path(folder, part, index) for part in sizes}
    return all(file.is_file() and file.stat().st_size == sizes[part] for part, file in files.items())
