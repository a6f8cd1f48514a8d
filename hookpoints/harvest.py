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

from core.files import remove_partial_files, write_json
from hookpoints.audit import check_alone
from hookpoints.capture import ActivationCapture
from hookpoints.config import SPLITS, HarvestConfig, Split
from hookpoints.contexts import TOKEN_DTYPE, ContextCounts, bos_token_ids, build_contexts, read_contexts
from hookpoints.corpus import CorpusConfig, documents
from hookpoints.identity import check_identity, identity_of
from hookpoints.manifest import MANIFEST, CaptureProof, HookRecord, ShardRecord, add_up, parse_record, read_manifest
from hookpoints.models import LanguageModel
from hookpoints.outliers import norm_bound
from hookpoints.packing import prove_packing
from hookpoints.passes import Pass, ShardRows, passes, select, token_columns
from hookpoints.rows import bytes_per_row, measure_and_encode, row_norms
from hookpoints.shards import TOKENS, shard_name, shard_path, write_shard
from hookpoints.sites import resolve_hookpoint

_TOKEN_ROW_BYTES = 16
_PROOF = "capture.json"
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
    prefix = bos_token_ids(language_model.tokenizer, config.prepend_bos)
    capture = ActivationCapture(language_model.model, hookpoints, config.context_length)
    with capture:
        packing = prove_packing(capture, prefix)
    _check_disk(config, language_model.d_model, folder)
    remove_partial_files(folder)
    identity = identity_of(language_model, corpus, config)
    check_identity(folder, identity)
    proof = _keep_proof(folder, CaptureProof(places=capture.places, packing=packing, bos_token_ids=prefix))
    counts = build_contexts(
        folder / "contexts",
        documents(corpus),
        language_model.tokenizer,
        context_length=config.context_length,
        prefix=prefix,
        n_train=config.n_contexts["train"],
        n_held_out=config.n_contexts["held_out"],
        held_out_fraction=config.held_out_fraction,
        seed=config.seed,
    )
    shards = _plan(config, counts)
    with capture:
        yield from _make_missing(_Work(language_model, config, folder, capture, proof), shards)
    records = [_read_record(folder, shard.number) for shard in shards]
    manifest = add_up(identity, proof, counts, records)
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


class _Work(NamedTuple):
    """What every shard of a harvest is made with."""

    language_model: LanguageModel
    config: HarvestConfig
    folder: Path
    capture: ActivationCapture
    proof: CaptureProof

    @property
    def special_tokens(self) -> set[int]:
        return {*self.language_model.tokenizer.all_special_ids, *self.proof.bos_token_ids}


def _keep_proof(folder: Path, proof: CaptureProof) -> CaptureProof:
    """What was proved when the folder was begun decides for all of its shards; raises ValueError where it holds no more."""
    path = folder / _PROOF
    if not path.exists():
        write_json(path, proof.model_dump(mode="json"))
        return proof
    there = parse_record(CaptureProof, path)
    is_less = there.packing.is_packed and not proof.packing.is_packed
    if is_less or any(there.places[name].terms != place.terms for name, place in proof.places.items()):
        raise ValueError(
            f"{folder} was begun with another proof of capture than this version of transformers and this device give "
            f"({path}); set activations to another folder, or delete it"
        )
    return there


def _make_missing(work: _Work, shards: list[_Shard]) -> Iterator[Progress]:
    config, folder = work.config, work.folder
    total = sum(shard.stop - shard.start for shard in shards) * config.context_length
    done_tokens, done_bytes = 0, 0
    pending: Future[None] | None = None
    # Shard 0 is awaited, since its norms set every later shard's bound; and on the CPU every shard is, since two
    # pools of threads on the same cores cost the forward pass more than they save.
    is_accelerated = work.language_model.model.device.type != "cpu"
    with ThreadPoolExecutor(1) as writer:
        for shard in shards:
            n_tokens = (shard.stop - shard.start) * config.context_length
            n_bytes = n_tokens * len(work.proof.places) * bytes_per_row(work.language_model.d_model, config.dtype)
            if not _shard_is_complete(folder, shard.number):
                contexts = read_contexts(
                    folder / "contexts", shard.split, shard.start, shard.stop, config.context_length
                )
                selection = select(contexts, config, list(work.special_tokens))
                made: list[Pass] = []
                is_packed = work.proof.packing.is_packed
                for one in passes(work.capture, contexts, selection.keep, config, is_packed=is_packed):
                    made.append(one)
                    yield Progress(done_tokens + sum(done.n_tokens for done in made), total, done_bytes)
                check_alone(work.capture, contexts, made, work.proof.packing.tolerance)
                tokens = token_columns(contexts, selection.keep, shard.start)
                if pending is not None:
                    pending.result()
                pending = writer.submit(_finish_shard, work, shard, ShardRows(tokens, made, selection.n_dropped))
                if shard.number == 0 or not is_accelerated:
                    pending.result()
            done_tokens += n_tokens
            done_bytes += n_bytes
        if pending is not None:
            pending.result()


def _finish_shard(work: _Work, shard: _Shard, rows: ShardRows) -> None:
    """Shuffle, filter, measure, store; the record comes last and makes the shard count."""
    try:
        record = _store_shard(work, shard, rows)
    except ValueError:
        for part in (TOKENS, *work.proof.places):
            shard_path(work.folder, part, shard.number).unlink(missing_ok=True)
        raise
    write_json(_record_path(work.folder, shard.number), record.model_dump(mode="json"))


def _store_shard(work: _Work, shard: _Shard, rows: ShardRows) -> ShardRecord:
    config, folder = work.config, work.folder
    n_rows = len(rows.tokens["token_ids"])
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + shard.number)
    order = torch.randperm(n_rows, generator=generator)
    stored_tokens = {name: column[order] for name, column in rows.tokens.items()}
    checksums = {TOKENS: write_shard(shard_path(folder, TOKENS, shard.number), stored_tokens)}
    hooks: dict[str, HookRecord] = {}
    for name in work.proof.places:
        activations = rows.take(name, order)
        norms = row_norms(activations, f"{name}, {shard_name(shard.number)}")
        is_first = shard.number == 0
        bound = norm_bound(norms, config.norm_outlier_factor) if is_first else _read_record(folder, 0).hooks[name].bound
        hooks[name], stored = measure_and_encode(activations, norms, config.dtype, bound)
        checksums[name] = write_shard(shard_path(folder, name, shard.number), stored)
    sizes = {part: shard_path(folder, part, shard.number).stat().st_size for part in checksums}
    return ShardRecord(
        split=shard.split, n_rows=n_rows, n_dropped=rows.n_dropped, sha256=checksums, bytes=sizes, hooks=hooks
    )


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
