"""Documents to contexts: tokenised, split by document, packed; and grown to more tokens without a change to those before."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from core.files import TEMPORARY_SUFFIX, write_atomically, write_json
from hookpoints.config import SPLITS, Split
from hookpoints.contexts import (
    CONTEXTS,
    TOKEN_DTYPE,
    ContextSettings,
    ContextShard,
    ContextsRecord,
    bin_path,
    read_slice,
)
from hookpoints.extents import Extent, extent_of
from hookpoints.records import WAY_OUT, parse_record
from hookpoints.text import Document, Notes, digest_of, tokenised

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Wanted(NamedTuple):
    """How much text a study asks for."""

    n_tokens: int
    """Both splits together."""
    n_contexts: dict[Split, int]


def grow_contexts(
    folder: Path,
    documents: Iterable[Document],
    tokenizer: "PreTrainedTokenizerBase",
    settings: ContextSettings,
    wanted: Wanted,
    notes: Notes,
    *,
    n_embeddings: int,
) -> ContextsRecord:
    """Tokenise, split and pack until both splits have as many contexts as asked for or the corpus ends.

    Writes ``folder/train.bin``, ``folder/held_out.bin`` and, last, ``folder/contexts.json``. What the folder holds is kept:
    nothing is done where it has as much, and more is added after it, if the documents begin with those read before. Memory
    does not grow with the corpus. Raises ValueError when a split stays empty, when fewer tokens are asked for than the folder
    holds, when the documents are others, and for tokens that the model does not have.
    """
    there = parse_record(ContextsRecord, folder / CONTEXTS) if (folder / CONTEXTS).exists() else None
    extents = there.extents if there else []
    if there and extent_of(extents, wanted.n_tokens) is not None:
        return there
    refuse_fewer_tokens(folder.parent, extents, wanted.n_tokens)
    if len(settings.prefix) >= settings.context_length:
        raise ValueError(
            f"harvest.context_length is {settings.context_length} and every piece starts with the {len(settings.prefix)} tokens "
            "of the tokenizer's BOS, so no text would fit; raise it, or set harvest.prepend_bos: false"
        )
    folder.mkdir(parents=True, exist_ok=True)
    partial: dict[Split, Path] = {split: folder / f"{split}.packed{TEMPORARY_SUFFIX}" for split in SPLITS}
    try:
        with partial["train"].open("wb") as train, partial["held_out"].open("wb") as held_out:
            run = _Run(settings, {"train": train, "held_out": held_out}, wanted, extents, n_embeddings)
            for document, tokens in tokenised(documents, tokenizer, notes):
                if run.add(document, tokens):
                    break
        n_contexts = run.finish()
        shards = _shards(there.shards if there else [], n_contexts, settings, partial)
        for split in SPLITS:
            write_atomically(bin_path(folder, split), partial[split].rename)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
    extent = Extent(
        n_tokens=wanted.n_tokens,
        n_contexts=n_contexts,
        n_documents=run.n_documents,
        corpus_hash=run.digest.hexdigest(),
        n_shards=len(shards),
        notes=notes.lines(),
    )
    record = ContextsRecord(settings=settings, extents=[*extents, extent], shards=shards)
    write_json(folder / CONTEXTS, record.model_dump(mode="json"))
    return record


def check_documents(folder: Path, documents: Iterable[Document]) -> None:
    """Documents are those that the contexts of a folder were made of. Raises ValueError where they are not."""
    last = parse_record(ContextsRecord, folder / CONTEXTS).extents[-1]
    digest, n_documents = hashlib.sha256(), 0
    for document in documents:
        digest.update(digest_of(document))
        n_documents += 1
        if n_documents == last.n_documents:
            break
    if (n_documents, digest.hexdigest()) != (last.n_documents, last.corpus_hash):
        raise ValueError(_other_text(folder, last))


def refuse_fewer_tokens(folder: Path, extents: Sequence[Extent], n_tokens: int) -> None:
    """Raises ValueError for a number of tokens below the last one harvested that is none of those before."""
    if not extents or n_tokens > extents[-1].n_tokens or extent_of(list(extents), n_tokens) is not None:
        return
    there = ", ".join(f"{extent.n_tokens:,}" for extent in extents)
    raise ValueError(
        f"{folder} holds activations of {there} tokens and harvest.n_tokens is {n_tokens:,}; give one of these, or more than the "
        "last, or set activations to another folder"
    )


def _other_text(folder: Path, extent: Extent) -> str:
    return (
        f"the text is not the one that {folder.parent} was harvested from (the first {extent.n_documents:,} documents have "
        "another SHA-256); put the old text back, or set activations to another folder"
    )


class _Run:
    """One pass over the documents."""

    def __init__(
        self,
        settings: ContextSettings,
        handles: dict[Split, BinaryIO],
        wanted: Wanted,
        extents: Sequence[Extent],
        n_embeddings: int,
    ) -> None:
        self._settings, self._handles, self._wanted, self._extents = settings, handles, wanted, extents
        self._n_embeddings = n_embeddings
        self._packers = {split: _Packer(handles[split], settings.context_length, settings.prefix) for split in SPLITS}
        self.digest = hashlib.sha256()
        self.n_documents = 0

    def add(self, document: Document, tokens: list[int]) -> bool:
        """Pack a document; returns whether there are enough."""
        if tokens and max(tokens) >= self._n_embeddings:
            raise ValueError(
                f"document {self.n_documents} of the corpus holds token {max(tokens)}, and the model's embedding has "
                f"{self._n_embeddings} rows: the tokenizer, or the tokens of the corpus, are another model's"
            )
        document_digest = digest_of(document)
        self.digest.update(document_digest)
        split = _split_of(document_digest, self._settings.held_out_fraction, self._settings.seed)
        if self._packers[split].n_contexts < self._wanted.n_contexts[split]:
            self._packers[split].add(tokens, self.n_documents)
        self.n_documents += 1
        self._check_text()
        return all(self._packers[name].n_contexts >= self._wanted.n_contexts[name] for name in SPLITS)

    def finish(self) -> dict[Split, int]:
        """Contexts of each split; the files hold no more."""
        n_contexts: dict[Split, int] = {
            split: min(self._packers[split].n_contexts, self._wanted.n_contexts[split]) for split in SPLITS
        }
        if self._extents and self.n_documents < self._extents[-1].n_documents:
            raise ValueError(_other_text(Path(self._handles["train"].name).parent, self._extents[-1]))
        _check_not_empty(n_contexts, self.n_documents, self._settings.context_length)
        for split, handle in self._handles.items():
            with Path(handle.name).open("rb+") as file:
                file.truncate(n_contexts[split] * self._settings.context_length * TOKEN_DTYPE.itemsize)
        return n_contexts

    def _check_text(self) -> None:
        for extent in self._extents:
            if extent.n_documents == self.n_documents and extent.corpus_hash != self.digest.hexdigest():
                raise ValueError(_other_text(Path(self._handles["train"].name).parent, extent))


class _Packer:
    """Lays pieces of documents end to end into contexts; each piece starts at position 0, with the prefix there."""

    def __init__(self, handle: BinaryIO, context_length: int, prefix: Sequence[int]) -> None:
        self._handle = handle
        self._prefix = list(prefix)
        self._context = np.zeros(context_length, dtype=TOKEN_DTYPE)
        self._filled = 0
        self.n_contexts = 0

    def add(self, tokens: list[int], document: int) -> None:
        start = 0
        while start < len(tokens):
            room = len(self._context) - self._filled
            piece = tokens[start : start + max(0, room - len(self._prefix))]
            start += len(piece)
            token_ids = [*self._prefix, *piece][:room]
            slots = self._context[self._filled : self._filled + len(token_ids)]
            slots["token_id"], slots["position"], slots["document"] = (token_ids, np.arange(len(token_ids)), document)
            self._filled += len(token_ids)
            if self._filled == len(self._context):
                self._handle.write(self._context.tobytes())
                self._filled = 0
                self.n_contexts += 1


def _split_of(document_digest: bytes, held_out_fraction: float, seed: int) -> Split:
    """A function of the document's text alone, so that copies of a document never stand on both sides."""
    digest = hashlib.sha256(document_digest + seed.to_bytes(8, "little")).digest()
    return "held_out" if int.from_bytes(digest[:8], "little") < held_out_fraction * 2.0**64 else "train"


def _shards(
    there: Sequence[ContextShard], n_contexts: dict[Split, int], settings: ContextSettings, partial: dict[Split, Path]
) -> list[ContextShard]:
    """Those that are there, and new ones after them. Raises ValueError where the contexts before are not the same."""

    def sha256(split: Split, start: int, stop: int) -> str:
        return hashlib.sha256(read_slice(partial[split], start, stop, settings.context_length)).hexdigest()

    for shard in there:
        if sha256(shard.split, shard.start, shard.stop) != shard.slice_sha256:
            raise ValueError(
                f"the text packs to other contexts than it did when {partial[shard.split].parent} was made, by another version "
                f"of the tokenizer's library perhaps: {WAY_OUT}"
            )
    shards = list(there)
    for split in SPLITS:
        done = max((shard.stop for shard in there if shard.split == split), default=0)
        for start in range(done, n_contexts[split], settings.shard_contexts):
            stop = min(start + settings.shard_contexts, n_contexts[split])
            shards.append(ContextShard(split=split, start=start, stop=stop, slice_sha256=sha256(split, start, stop)))
    return shards


def _check_not_empty(n_contexts: dict[Split, int], n_documents: int, context_length: int) -> None:
    if n_documents == 0:
        raise ValueError("the corpus is empty: it holds no document with text; check corpus and its text column")
    for split, count in n_contexts.items():
        if count == 0:
            raise ValueError(
                f"the corpus ended after {n_documents} documents before the {split} split filled one context of "
                f"{context_length} tokens; give more text, a smaller harvest.context_length, or another held_out_fraction. "
                "Without corpus.document_separator a text file is one document, and each document is of one split"
            )
