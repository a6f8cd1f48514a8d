"""Shards: what each lacks, read from the model and stored."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from core.files import write_json
from hookpoints.audit import check_alone
from hookpoints.capture import ActivationCapture
from hookpoints.config import HarvestConfig
from hookpoints.contexts import ContextStore
from hookpoints.manifest import CaptureProof
from hookpoints.models import LanguageModel
from hookpoints.outliers import norm_bound
from hookpoints.packing import Packing, prove_packing
from hookpoints.passes import Pass, ShardRows, passes, select, token_columns
from hookpoints.records import TOKENS, HookShardRecord, TokenRecord, parse_record
from hookpoints.rows import bytes_per_row, measure_and_encode, row_norms
from hookpoints.shards import record_path, shard_name, shard_path, write_shard
from hookpoints.sites import Hookpoint


class Progress(NamedTuple):
    """One step of a harvest, for whoever displays it."""

    n_tokens: int
    """Tokens finished so far, those of shards found complete included."""
    total_tokens: int
    n_bytes: int
    """Bytes of the shards written or found."""


class Readers:
    """What reads a model at some hookpoints, each proved once."""

    def __init__(self, language_model: LanguageModel, context_length: int, prefix: list[int]) -> None:
        self._language_model, self._context_length, self._prefix = language_model, context_length, prefix
        self._proved: dict[tuple[Hookpoint, ...], tuple[ActivationCapture, Packing]] = {}

    def of(self, hookpoints: list[Hookpoint]) -> tuple[ActivationCapture, Packing]:
        """The capture, not yet entered, and whether pieces may be packed for it."""
        key = tuple(hookpoints)
        if key not in self._proved:
            capture = ActivationCapture(self._language_model.model, hookpoints, self._context_length)
            with capture:
                self._proved[key] = capture, prove_packing(capture, self._prefix)
        return self._proved[key]

    def proof(self, hookpoints: list[Hookpoint]) -> CaptureProof:
        """Of all of them."""
        capture, packing = self.of(hookpoints)
        return CaptureProof(places=capture.places, packing=packing)


class Work(NamedTuple):
    """What every shard of a harvest is made with."""

    language_model: LanguageModel
    config: HarvestConfig
    folder: Path
    contexts: ContextStore
    proof: CaptureProof
    environment: dict[str, str]

    @property
    def special_tokens(self) -> set[int]:
        return {*self.language_model.tokenizer.all_special_ids, *self.contexts.record.settings.prefix}


class _Job(NamedTuple):
    """What a shard lacks."""

    number: int
    hookpoints: list[Hookpoint]
    """Hooks that are not stored yet."""
    n_tokens: int


def make_missing(work: Work, readers: Readers, hookpoints: list[Hookpoint], n_shards: int) -> Iterator[Progress]:
    per_token = len(hookpoints) * bytes_per_row(work.language_model.d_model, work.config.dtype)
    jobs = [_job(work, index, hookpoints) for index in range(n_shards)]
    total, done = sum(job.n_tokens for job in jobs), 0
    pending: Future[None] | None = None
    # Shard 0 is awaited, since its norms set every later shard's bound; and on the CPU every shard is, since two
    # pools of threads on the same cores cost the forward pass more than they save.
    is_accelerated = work.language_model.model.device.type != "cpu"
    with ThreadPoolExecutor(1) as writer:
        for job in jobs:
            if job.hookpoints or not _part_is_complete(work.folder, TOKENS, job.number):
                rows: ShardRows | None = None
                for step in _read(work, readers, job, job.hookpoints or hookpoints):
                    if isinstance(step, ShardRows):
                        rows = step
                    else:
                        yield Progress(done + step, total, done * per_token)
                assert rows is not None
                if pending is not None:
                    pending.result()
                pending = writer.submit(_finish_shard, work, job, rows)
                if job.number == 0 or not is_accelerated:
                    pending.result()
            done += job.n_tokens
            yield Progress(done, total, done * per_token)
        if pending is not None:
            pending.result()


def _job(work: Work, index: int, hookpoints: list[Hookpoint]) -> _Job:
    shard = work.contexts.record.shards[index]
    missing = [one for one in hookpoints if not _part_is_complete(work.folder, one.name, index)]
    return _Job(index, missing, (shard.stop - shard.start) * work.config.context_length)


def _read(work: Work, readers: Readers, job: _Job, hookpoints: list[Hookpoint]) -> Iterator[int | ShardRows]:
    """One shard through the model: tokens read so far, and in the end its rows."""
    contexts = work.contexts.read_shard(job.number)
    selection = select(contexts, work.config, list(work.special_tokens))
    capture, packing = readers.of(hookpoints)
    made: list[Pass] = []
    with capture:
        for one in passes(capture, contexts, selection.keep, work.config, is_packed=work.proof.packing.is_packed):
            made.append(one)
            yield sum(done.n_tokens for done in made)
        check_alone(capture, contexts, made, packing.tolerance)
    first = work.contexts.record.shards[job.number].start
    yield ShardRows(token_columns(contexts, selection.keep, first), made, selection.n_dropped)


def _finish_shard(work: Work, job: _Job, rows: ShardRows) -> None:
    """Shuffle, filter, measure, store; a record comes after each file and makes it count."""
    shard = work.contexts.record.shards[job.number]
    seed = work.config.seed * 1_000_003 + job.number
    order = torch.randperm(len(rows.tokens["token_ids"]), generator=torch.Generator().manual_seed(seed))
    if not _part_is_complete(work.folder, TOKENS, job.number):
        path = shard_path(work.folder, TOKENS, job.number)
        digest = write_shard(path, {name: column[order] for name, column in rows.tokens.items()})
        token_record = TokenRecord(
            split=shard.split,
            n_rows=len(order),
            n_dropped=rows.n_dropped,
            file_sha256=digest,
            bytes=path.stat().st_size,
        )
        write_json(record_path(work.folder, TOKENS, job.number), token_record.model_dump(mode="json"))
    for hookpoint in job.hookpoints:
        _store_hook(work, job, hookpoint.name, rows, order)


def _store_hook(work: Work, job: _Job, name: str, rows: ShardRows, order: torch.Tensor) -> None:
    config, folder = work.config, work.folder
    activations = rows.take(name, order)
    norms = row_norms(activations, f"{name}, {shard_name(job.number)}")
    is_first = job.number == 0
    bound = norm_bound(norms, config.norm_outlier_factor) if is_first else hook_record(folder, name, 0).rows.bound
    record, stored = measure_and_encode(activations, norms, config.dtype, bound)
    path = shard_path(folder, name, job.number)
    digest = write_shard(path, stored)
    kept = HookShardRecord(file_sha256=digest, bytes=path.stat().st_size, environment=work.environment, rows=record)
    write_json(record_path(folder, name, job.number), kept.model_dump(mode="json"))


def token_record(folder: Path, index: int) -> TokenRecord:
    return parse_record(TokenRecord, record_path(folder, TOKENS, index))


def hook_record(folder: Path, name: str, index: int) -> HookShardRecord:
    return parse_record(HookShardRecord, record_path(folder, name, index))


def _part_is_complete(folder: Path, part: str, index: int) -> bool:
    """Whether a part of a shard is there, at the size that its record says."""
    if not record_path(folder, part, index).is_file():
        return False
    record = token_record(folder, index) if part == TOKENS else hook_record(folder, part, index)
    file = shard_path(folder, part, index)
    return file.is_file() and file.stat().st_size == record.bytes


def n_complete(folder: Path, part: str, n_shards: int) -> int:
    """Shards of a part up to the first that is not complete."""
    return next((index for index in range(n_shards) if not _part_is_complete(folder, part, index)), n_shards)
