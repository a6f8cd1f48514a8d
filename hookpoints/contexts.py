"""Documents to fixed contexts of tokens on disk, split into train and held-out by document.

Several documents share a context, but no token attends across a document's border and positions restart there, so every
activation is what the model computes for that document alone.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.files import TEMPORARY_SUFFIX, read_json, write_json
from hookpoints.config import SPLITS, Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKEN_DTYPE = np.dtype([("token_id", "<i4"), ("position", "<i4"), ("document", "<i4")])
_DOCUMENTS_PER_TOKENIZER_CALL = 128


class ContextCounts(NamedTuple):
    """What packing produced."""

    train: int
    """Contexts for training."""
    held_out: int
    """Contexts for evaluation, from other documents than the training ones."""
    n_documents: int
    """Documents read until both splits were full or the corpus ended."""
    corpus_hash: str
    """SHA-256 over the documents read."""

    def of(self, split: Split) -> int:
        """Contexts of one split."""
        return self.train if split == "train" else self.held_out


class Contexts(NamedTuple):
    """A batch of packed contexts, as the model wants it."""

    input_ids: Tensor
    """``[batch, context]`` int64."""
    position_ids: Tensor
    """``[batch, context]`` int64: position inside the document's piece, from 0."""
    documents: Tensor
    """``[batch, context]`` int32: index of the document in the corpus."""


def build_contexts(
    folder: Path,
    documents: Iterable[str],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    context_length: int,
    prefix: Sequence[int],
    n_train: int,
    n_held_out: int,
    held_out_fraction: float,
    seed: int,
) -> ContextCounts:
    """Tokenise, split and pack until both splits have as many contexts as asked for or the corpus ends.

    Writes ``folder/train.bin``, ``folder/held_out.bin`` and, last, ``folder/contexts.json``; does nothing when the last
    exists. Every piece starts with the tokens of ``prefix``. Memory does not grow with the corpus. Raises ValueError when
    a split stays empty.
    """
    done = folder / "contexts.json"
    if done.exists():
        return ContextCounts(**read_json(done))
    if len(prefix) >= context_length:
        raise ValueError(
            f"harvest.context_length is {context_length} and every piece starts with the {len(prefix)} tokens of the "
            "tokenizer's BOS, so no text would fit; raise it, or set harvest.prepend_bos: false"
        )
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {"train": n_train, "held_out": n_held_out}
    digest = hashlib.sha256()
    n_documents = 0
    partial = {split: folder / f"{split}.bin{TEMPORARY_SUFFIX}" for split in SPLITS}
    with partial["train"].open("wb") as train, partial["held_out"].open("wb") as held_out:
        packers = {
            "train": _Packer(train, context_length, prefix),
            "held_out": _Packer(held_out, context_length, prefix),
        }
        for text, tokens in _tokenised(documents, tokenizer):
            document_digest = hashlib.sha256(text.encode("utf8")).digest()
            digest.update(document_digest)
            split = _split_of(document_digest, held_out_fraction, seed)
            if packers[split].n_contexts < wanted[split]:
                packers[split].add(tokens, n_documents)
            n_documents += 1
            if all(packers[name].n_contexts >= wanted[name] for name in SPLITS):
                break
    n_contexts: dict[Split, int] = {split: min(packers[split].n_contexts, wanted[split]) for split in SPLITS}
    _check_not_empty(n_contexts, n_documents, context_length)
    for split in SPLITS:
        with partial[split].open("rb+") as handle:
            handle.truncate(n_contexts[split] * context_length * TOKEN_DTYPE.itemsize)
        partial[split].replace(folder / f"{split}.bin")
    counts = ContextCounts(n_contexts["train"], n_contexts["held_out"], n_documents, digest.hexdigest())
    write_json(done, counts._asdict())
    return counts


def read_contexts(folder: Path, split: Split, start: int, stop: int, context_length: int) -> Contexts:
    """Contexts ``start`` to ``stop`` of a split, read from disk."""
    n_tokens = (stop - start) * context_length
    offset = start * context_length * TOKEN_DTYPE.itemsize
    rows = np.fromfile(folder / f"{split}.bin", dtype=TOKEN_DTYPE, count=n_tokens, offset=offset)
    if len(rows) != n_tokens:
        raise ValueError(
            f"{folder / f'{split}.bin'} is shorter than its contexts.json says; delete the folder {folder}"
        )
    rows = rows.reshape(stop - start, context_length)
    return Contexts(
        torch.from_numpy(rows["token_id"].astype(np.int64)),
        torch.from_numpy(rows["position"].astype(np.int64)),
        torch.from_numpy(rows["document"].astype(np.int32)),
    )


def bos_token_ids(tokenizer: "PreTrainedTokenizerBase", prepend_bos: bool | None) -> list[int]:
    """Tokens that start every piece: None follows the tokenizer's own habit, which may be more than one token.

    Raises ValueError when BOS is asked for and the tokenizer has none.
    """
    if prepend_bos is False:
        return []
    text = list[int](tokenizer("a", add_special_tokens=False)["input_ids"])
    with_special = list[int](tokenizer("a", add_special_tokens=True)["input_ids"])
    starts = [n for n in range(len(with_special)) if with_special[n : n + len(text)] == text]
    habit = with_special[: starts[0]] if starts else []
    if habit or prepend_bos is None:
        return habit
    if tokenizer.bos_token_id is None:
        raise ValueError(
            f"harvest.prepend_bos: the tokenizer {tokenizer.name_or_path} has no BOS token; set it to false, or leave it out"
        )
    return [int(tokenizer.bos_token_id)]  # pyright: ignore[reportArgumentType]


class ModelBatch(NamedTuple):
    """Rows of one forward pass."""

    input_ids: Tensor
    """``[batch, length]`` int64."""
    position_ids: Tensor | None
    """``[batch, length]`` int64, starting anew at every piece; None where each row holds one."""
    place: Tensor
    """``[batch, length]`` int64: which token of the contexts, counted over all of them; -1 for padding."""


def packed_batches(contexts: Contexts, batch_contexts: int) -> Iterator[ModelBatch]:
    """Whole contexts as they are packed, ``batch_contexts`` at a time."""
    place = torch.arange(contexts.input_ids.numel()).reshape(contexts.input_ids.shape)
    batches = zip(
        *(part.split(batch_contexts) for part in (contexts.input_ids, contexts.position_ids, place)), strict=True
    )
    for input_ids, position_ids, where in batches:
        holds_pieces = int((position_ids == 0).sum()) > len(position_ids)
        yield ModelBatch(input_ids, position_ids if holds_pieces else None, where)


def padded_batches(contexts: Contexts, batch_tokens: int) -> Iterator[ModelBatch]:
    """One piece a row, padded on the right with its last token; pieces of like length share a batch of ``batch_tokens``."""
    input_ids, position_ids = contexts.input_ids.flatten(), contexts.position_ids.flatten()
    starts = (position_ids == 0).nonzero()[:, 0]
    lengths = torch.diff(starts, append=torch.tensor([len(position_ids)]))
    longest_first = torch.argsort(lengths, descending=True, stable=True).tolist()
    while longest_first:
        length = int(lengths[longest_first[0]])
        n_rows = max(1, batch_tokens // length)
        rows, longest_first = torch.tensor(longest_first[:n_rows]), longest_first[n_rows:]
        offset = torch.arange(length)
        place = starts[rows, None] + torch.minimum(offset, lengths[rows, None] - 1)
        yield ModelBatch(input_ids[place], None, torch.where(offset < lengths[rows, None], place, -1))


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


def _tokenised(documents: Iterable[str], tokenizer: "PreTrainedTokenizerBase") -> Iterator[tuple[str, list[int]]]:
    stream = iter(documents)
    while texts := list(islice(stream, _DOCUMENTS_PER_TOKENIZER_CALL)):
        token_lists = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)[
            "input_ids"
        ]
        yield from zip(texts, token_lists, strict=True)  # pyright: ignore[reportReturnType]


def _split_of(document_digest: bytes, held_out_fraction: float, seed: int) -> Split:
    """A function of the document's text alone, so that copies of a document never stand on both sides."""
    digest = hashlib.sha256(document_digest + seed.to_bytes(8, "little")).digest()
    return "held_out" if int.from_bytes(digest[:8], "little") < held_out_fraction * 2.0**64 else "train"


def _check_not_empty(n_contexts: dict[Split, int], n_documents: int, context_length: int) -> None:
    if n_documents == 0:
        raise ValueError("the corpus is empty: it holds no document with text; check corpus and its text column")
    for split, count in n_contexts.items():
        if count == 0:
            raise ValueError(
                f"the corpus ended after {n_documents} documents before the {split} split filled one context of "
                f"{context_length} tokens; give more text, a smaller harvest.context_length, or another held_out_fraction"
            )
