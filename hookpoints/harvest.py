"""Harvest: contexts through the model, activations of several hooks to shuffled shards, one forward pass for all.

Each shard is a function of the configuration and its index, so a killed harvest started again makes only what is missing
and ends byte-identical to one that was never killed.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from hookpoints.capture import ActivationCapture
from hookpoints.contexts import (
    SPLITS,
    TOKEN_DTYPE,
    ContextCounts,
    Split,
    build_contexts,
    read_contexts,
    separating_mask,
)
from hookpoints.corpus import EmbeddedCorpus, FilesCorpus, HubCorpus, corpus_id, documents
from hookpoints.files import read_json, remove_partial_files, write_json
from hookpoints.manifest import manifest, measure_and_encode
from hookpoints.models import LanguageModel, content_hash, tokenizer_hash
from hookpoints.schema import Schema
from hookpoints.shards import (
    MANIFEST,
    TOKENS,
    StorageDtype,
    bytes_per_row,
    shard_name,
    shard_path,
    write_shard,
)
from hookpoints.sites import Hookpoint, HookpointConfig, resolve_hookpoint

IDENTITY = "harvest.json"
_TOKEN_ROW_BYTES = 16
_DISK_MARGIN = 1.02


class HarvestConfig(Schema):
    """What to read and how to store it."""

    hookpoints: list[HookpointConfig] = Field(min_length=1)
    """Where to capture; all of them in one forward pass."""
    n_tokens: int = Field(gt=0)
    """Tokens that the model reads, both splits together; the harvest ends earlier if the corpus does."""
    held_out_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the documents kept for evaluation."""
    context_length: int = Field(default=256, ge=2)
    """Tokens per context."""
    batch_tokens: int = Field(default=4096, gt=0)
    """Tokens per forward pass."""
    shard_tokens: int = Field(default=65536, gt=0)
    """Tokens per shard."""
    dtype: StorageDtype = "bfloat16"
    """How rows are stored."""
    prepend_bos: bool = False
    """Start every piece of a document with the tokenizer's BOS token (its row is dropped as a special token)."""
    drop_first_position: bool = True
    """Drop the first position of every piece: an attention sink (method section 2)."""
    drop_special_tokens: bool = True
    """Drop the rows of BOS, EOS and their like."""
    norm_outlier_factor: float | None = Field(default=10.0, gt=1)
    """Rows over this many times the median norm are left out of training and R2; null keeps every row."""
    seed: int = Field(default=0, ge=0)
    """Of the document split and of the row order inside shards."""

    @property
    def batch_contexts(self) -> int:
        """Contexts per forward pass."""
        return max(1, self.batch_tokens // self.context_length)

    @property
    def shard_contexts(self) -> int:
        """Contexts per shard: whole forward passes, so that a shard does not depend on the one before."""
        return max(1, self.shard_tokens // (self.context_length * self.batch_contexts)) * self.batch_contexts

    @property
    def n_contexts(self) -> dict[Split, int]:
        """Contexts wanted of each split."""
        total = max(2, self.n_tokens // self.context_length)
        held_out = min(max(1, round(total * self.held_out_fraction)), total - 1)
        return {"train": total - held_out, "held_out": held_out}

    def disk_bytes(self, d_in: int) -> int:
        """Upper bound of what the harvest writes for a model of width ``d_in``."""
        per_row = len(self.hookpoints) * bytes_per_row(d_in, self.dtype) + _TOKEN_ROW_BYTES + TOKEN_DTYPE.itemsize
        return self.n_tokens * per_row


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
    n_dropped: dict[str, int]


def harvest(
    language_model: LanguageModel,
    corpus: EmbeddedCorpus | HubCorpus | FilesCorpus,
    config: HarvestConfig,
    folder: Path,
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
    _check_identity(language_model, corpus, config, folder)
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
    records = [read_json(_record_path(folder, shard.number)) for shard in shards]
    names = [hookpoint.name for hookpoint in hookpoints]
    write_json(folder / MANIFEST, manifest(read_json(folder / IDENTITY), names, counts, config.context_length, records))


def is_complete(folder: Path) -> bool:
    """Whether the folder holds a manifest and every shard it names, at its size (checksums are verified when read)."""
    if not (folder / MANIFEST).is_file():
        return False
    n_shards = len(read_json(folder / MANIFEST)["shards"])
    return all(_shard_is_complete(folder, index) for index in range(n_shards))


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
    language_model: LanguageModel,
    config: HarvestConfig,
    capture: ActivationCapture,
    folder: Path,
    shard: _Shard,
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
            {"first_position": int(is_first.sum()), "special_tokens": int((is_special & ~is_first).sum())},
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
    hooks: dict[str, Any] = {}
    for name in names:
        rows = torch.cat([batch.activations.pop(name) for batch in batches])[order]
        bound = None if shard.number == 0 else read_json(_record_path(folder, 0))["hooks"][name]["norm_bound"]
        hooks[name], stored = measure_and_encode(
            rows,
            config.dtype,
            norm_outlier_factor=config.norm_outlier_factor,
            norm_bound=bound,
            where=f"{name}, {shard_name(shard.number)}",
        )
        checksums[name] = write_shard(shard_path(folder, name, shard.number), stored)
    n_dropped = {key: sum(batch.n_dropped[key] for batch in batches) for key in batches[0].n_dropped}
    sizes = {part: shard_path(folder, part, shard.number).stat().st_size for part in checksums}
    record = {
        "split": shard.split, "n_rows": n_rows, "n_dropped": n_dropped, "sha256": checksums, "bytes": sizes, "hooks": hooks,
    }  # fmt: skip
    write_json(_record_path(folder, shard.number), record)


def _check_identity(
    language_model: LanguageModel,
    corpus: EmbeddedCorpus | HubCorpus | FilesCorpus,
    config: HarvestConfig,
    folder: Path,
) -> None:
    """Shards of another model, corpus or setting are never mixed in."""
    identity = {
        "model": language_model.model_id,
        "revision": language_model.revision,
        "model_hash": content_hash(language_model),
        "model_dtype": str(language_model.model.dtype).removeprefix("torch."),
        "tokenizer_hash": tokenizer_hash(language_model.tokenizer),
        "corpus": corpus_id(corpus),
        "corpus_config": corpus.model_dump(mode="json"),
        "harvest": config.model_dump(mode="json"),
    }
    path = folder / IDENTITY
    if not path.exists():
        write_json(path, identity)
        return
    existing = read_json(path)
    differing = [key for key in identity if existing.get(key) != identity[key]]
    if differing:
        lines = "; ".join(f"{key}: there {existing.get(key)!r}, now {identity[key]!r}" for key in differing)
        raise ValueError(f"{folder} holds activations of another harvest ({lines}); use another folder, or delete it")


def _check_disk(config: HarvestConfig, d_in: int, folder: Path) -> None:
    existing_parent = next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())
    present = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0
    needed = int(config.disk_bytes(d_in) * _DISK_MARGIN) - present
    free = shutil.disk_usage(existing_parent).free
    if needed > free:
        raise OSError(
            f"the harvest needs {needed / 1e9:.1f} GB more in {folder} and {free / 1e9:.1f} GB are free; lower "
            "harvest.n_tokens, use harvest.dtype: int8 or fewer hookpoints, or set activations to a folder on another disk"
        )


def _record_path(folder: Path, index: int) -> Path:
    return folder / "records" / f"{shard_name(index)}.json"


def _shard_is_complete(folder: Path, index: int) -> bool:
    path = _record_path(folder, index)
    if not path.is_file():
        return False
    sizes: dict[str, int] = read_json(path)["bytes"]
    files = {part: shard_path(folder, part, index) for part in sizes}
    return all(file.is_file() and file.stat().st_size == sizes[part] for part, file in files.items())
