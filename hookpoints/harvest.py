"""Harvest: contexts through the model, activations of several hooks to shuffled shards, one forward pass for all.

Each shard of each hook is a function of the contents and its index, so a killed harvest started again makes only what is
missing and ends byte-identical to one that was never killed; a hook added later, or more text, adds to what is there.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from core.files import remove_partial_files, write_json
from hookpoints.add_up import add_up
from hookpoints.config import HarvestConfig
from hookpoints.contents import HarvestContents
from hookpoints.contexts import TOKEN_DTYPE, ContextSettings, ContextsRecord, ContextStore
from hookpoints.corpus import documents
from hookpoints.described import Described
from hookpoints.extents import extent_of
from hookpoints.grow import Wanted, grow_contexts
from hookpoints.identity import keep_record, record_of
from hookpoints.jobs import Progress, Readers, Work, hook_record, make_missing, n_complete, token_record
from hookpoints.manifest import MANIFEST, PROOF, CaptureProof, read_manifest
from hookpoints.models import LanguageModel
from hookpoints.records import TOKENS, parse_record
from hookpoints.rows import bytes_per_row
from hookpoints.shards import is_stored
from hookpoints.sites import resolve_hookpoint
from hookpoints.sources import corpus_source, remember
from hookpoints.text import Notes

_TOKEN_ROW_BYTES = 16
_DISK_MARGIN = 1.02


def harvest(
    language_model: LanguageModel, study: Described, folder: Path, environment: Mapping[str, str]
) -> Iterator[Progress]:
    """Make every shard of every hook that ``folder`` lacks, then the manifest; yields after every forward pass and every shard.

    Raises ValueError (another harvest in the folder, empty corpus, a site the model lacks, non-finite activations) and
    OSError (disk too small) before anything half written could count as done.
    """
    config = study.harvest
    hookpoints = [resolve_hookpoint(hookpoint, language_model.n_layers) for hookpoint in config.hookpoints]
    if len(set(hookpoints)) < len(hookpoints):
        raise ValueError(f"harvest.hookpoints names one twice: {', '.join(h.name for h in hookpoints)}")
    record = record_of(language_model, study)
    prefix = record.contents.harvest.prepend_bos
    readers = Readers(language_model, config.context_length, prefix)
    proof = readers.proof(hookpoints)
    corpus = corpus_source(study.corpus, study.model)
    _check_disk(config, language_model.d_model, folder)
    remove_partial_files(folder)
    record = keep_record(folder, record, study, language_model.tokenizer)
    contexts = _contexts(folder / "contexts", language_model, record.contents, study)
    remember(folder, corpus=corpus)
    proof = _keep_proof(folder, proof)
    number = extent_of(contexts.extents, config.n_tokens)
    assert number is not None
    n_shards = contexts.extents[number].n_shards
    work = Work(language_model, config, folder, ContextStore(folder / "contexts"), proof, dict(environment))
    yield from make_missing(work, readers, hookpoints, n_shards)
    names = [name for name in proof.places if n_complete(folder, name, len(contexts.shards))]
    tokens = [token_record(folder, index) for index in range(n_complete(folder, TOKENS, len(contexts.shards)))]
    hooks = {
        name: [hook_record(folder, name, index) for index in range(n_complete(folder, name, len(tokens)))]
        for name in names
    }
    extents = [extent for extent in contexts.extents if extent.n_shards <= len(tokens)]
    manifest = add_up(record.names, record.contents, proof, extents, tokens, hooks)
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def _contexts(
    folder: Path, language_model: LanguageModel, contents: HarvestContents, study: Described
) -> ContextsRecord:
    config, notes = study.harvest, Notes()
    return grow_contexts(
        folder,
        documents(study.corpus, language_model.tokenizer, notes),
        language_model.tokenizer,
        ContextSettings(
            tokenizer=contents.model.tokenizer,
            context_length=config.context_length,
            prefix=contents.harvest.prepend_bos,
            held_out_fraction=config.held_out_fraction,
            seed=config.seed,
            shard_contexts=config.shard_contexts,
        ),
        Wanted(config.n_tokens, config.n_contexts),
        notes,
        n_embeddings=language_model.n_embeddings,
    )


def missing_hooks(folder: Path, config: HarvestConfig) -> list[str] | None:
    """Hooks of a study that a folder does not hold whole, as far as the study asks; None where it holds no harvest yet.

    Checksums are verified when shards are read.
    """
    if not (folder / MANIFEST).is_file():
        return None
    manifest = read_manifest(folder)
    hook_names = [resolve_hookpoint(one, manifest.names.n_layers).name for one in config.hookpoints]
    number = extent_of(manifest.extents, config.n_tokens)
    if number is None:
        return hook_names
    shards = manifest.shards[: manifest.extents[number].n_shards]
    tokens_are_whole = all(is_stored(folder, TOKENS, index, shard) for index, shard in enumerate(shards))
    return [
        name
        for name in hook_names
        if not tokens_are_whole
        or len(manifest.hooks.get(name, [])) <= number
        or not all(is_stored(folder, name, index, shard) for index, shard in enumerate(shards))
    ]


def disk_bytes(config: HarvestConfig, d_in: int) -> int:
    """Upper bound of what the harvest writes for a model of width ``d_in``."""
    per_row = len(config.hookpoints) * bytes_per_row(d_in, config.dtype) + _TOKEN_ROW_BYTES + TOKEN_DTYPE.itemsize
    return config.n_tokens * per_row


def _keep_proof(folder: Path, proof: CaptureProof) -> CaptureProof:
    """What was proved when the folder was begun decides for all of its shards; hooks proved later join it.

    Raises ValueError where it holds no more.
    """
    path = folder / PROOF
    there = parse_record(CaptureProof, path) if path.exists() else proof
    is_less = there.packing.is_packed and not proof.packing.is_packed
    if is_less or any(
        there.places[name].terms != place.terms for name, place in proof.places.items() if name in there.places
    ):
        raise ValueError(
            f"{folder} was begun with another proof of capture than this version of transformers and this device give "
            f"({path}); set activations to another folder, or delete it"
        )
    joined = there.model_copy(update={"places": {**proof.places, **there.places}})
    if not path.exists() or joined != there:
        write_json(path, joined.model_dump(mode="json"))
    return joined


def _check_disk(config: HarvestConfig, d_in: int, folder: Path) -> None:
    existing_parent = next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())
    present = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0
    needed = int(disk_bytes(config, d_in) * _DISK_MARGIN) - present
    free = shutil.disk_usage(existing_parent).free
    if needed > free:
        raise OSError(
            f"the harvest needs {needed / 1e6:,.0f} MB more in {folder} and {free / 1e6:,.0f} MB are free; lower "
            "harvest.n_tokens, use harvest.dtype: int8 or fewer hookpoints, or set activations to a folder on another disk"
        )
