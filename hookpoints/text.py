"""Text as it is -> documents: what is no text is skipped, what is no character replaced, and both are counted and said."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Document = str | list[int]
"""Its text, or its tokens where it was tokenised before."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_DOCUMENTS_PER_CALL = 128
_CHARACTERS_PER_CALL = 1 << 20
_LONGEST_PIECE = 1 << 18
"""A tokenizer needs some 200 bytes for a byte of text, so longer documents are tokenised in pieces."""
_CUT_TRIES, _CUT_SIDE = 8, 64
_CUT = re.compile(r"(?<=\S)\s")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Notes:
    """What was replaced or skipped: how often, and where first."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, what: str, where: str, count: int = 1) -> None:
        """``what`` in the plural: ``rows without text were skipped``."""
        self._counts[what] = self._counts.get(what, 0) + count
        self._first.setdefault(what, where)

    def lines(self) -> list[str]:
        """One for each kind."""
        return [f"{count:,} {what} (the first: {self._first[what]})" for what, count in self._counts.items()]


def cleaned(text: str, where: str, notes: Notes) -> str:
    """Lone surrogates, which no encoding holds, and NUL, which ends a string for some tokenizers, are replaced."""
    if "\x00" in text:
        notes.add(f"NUL characters were replaced by {REPLACEMENT}", where, text.count("\x00"))
        text = text.replace("\x00", REPLACEMENT)
    if _SURROGATE.search(text):
        text, count = _SURROGATE.subn(REPLACEMENT, text)
        notes.add(f"lone surrogates were replaced by {REPLACEMENT}", where, count)
    return text


def decoded(content: bytes, where: str, notes: Notes) -> str:
    """UTF-8, each byte that is none replaced."""
    try:
        return content.decode("utf8")
    except UnicodeDecodeError:
        text = content.decode("utf8", errors="replace")
        count = text.count(REPLACEMENT) - content.count(REPLACEMENT.encode())
        notes.add(f"bytes that are not UTF-8 were replaced by {REPLACEMENT}; is it Latin-1? convert it", where, count)
        return text


def chat_text(messages: Any, tokenizer: "PreTrainedTokenizerBase", where: str) -> str:
    """A conversation as the tokenizer's chat template writes it, without a BOS in front, which pieces get on their own.

    Raises ValueError, naming ``where``, for what is no conversation, and where the tokenizer has no template.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            f"corpus.messages_column: the tokenizer {tokenizer.name_or_path} has no chat template; use the instruct version "
            "of the model, or write the conversations as text"
        )
    from jinja2 import TemplateError

    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except (TemplateError, TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{where}: it is no conversation that the tokenizer's chat template can write ({error}); it takes a list of "
            "{role: ..., content: ...}"
        ) from error
    return text.removeprefix(str(tokenizer.bos_token)) if tokenizer.bos_token else text


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


def digest_of(document: Document) -> bytes:
    """SHA-256."""
    content = document.encode("utf8") if isinstance(document, str) else b"\x00tokens " + str(document).encode()
    return hashlib.sha256(content).digest()


def tokenised(
    documents: Iterable[Document], tokenizer: "PreTrainedTokenizerBase", notes: Notes
) -> Iterator[tuple[Document, list[int]]]:
    """Every document with its tokens; those of a very long one are the tokens of pieces, cut where that makes no difference."""
    for group in _groups(iter(documents)):
        pieces = [_cut(one, tokenizer, notes) if isinstance(one, str) else [] for one in group]
        flat = [piece for of_document in pieces for piece in of_document]
        token_lists = iter(_token_ids(flat, tokenizer))
        for document, of_document in zip(group, pieces, strict=True):
            if isinstance(document, str):
                yield document, [token for tokens in islice(token_lists, len(of_document)) for token in tokens]
            else:
                yield document, document


def _groups(documents: Iterator[Document]) -> Iterator[list[Document]]:
    group: list[Document] = []
    for document in documents:
        group.append(document)
        if len(group) == _DOCUMENTS_PER_CALL or sum(map(len, group)) >= _CHARACTERS_PER_CALL:
            yield group
            group = []
    if group:
        yield group


def _token_ids(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> Iterator[list[int]]:
    """In calls of some characters each: the tokenizer keeps far more than the tokens of all texts of a call."""
    for group in _groups(iter(texts)):
        encoded = tokenizer(group, add_special_tokens=False, return_attention_mask=False, verbose=False)  # pyright: ignore[reportArgumentType]
        yield from encoded["input_ids"]  # pyright: ignore[reportReturnType]


def _cut(text: str, tokenizer: "PreTrainedTokenizerBase", notes: Notes) -> list[str]:
    """Pieces of at most `_LONGEST_PIECE` characters."""
    pieces, start = [], 0
    while len(text) - start > _LONGEST_PIECE:
        stop = _harmless_cut(text, start, tokenizer)
        if stop is None:
            stop = start + _LONGEST_PIECE
            notes.add("cuts in long documents may change the tokens beside them", repr(text[:40]))
        pieces.append(text[start:stop])
        start = stop
    return [*pieces, text[start:]]


def _harmless_cut(text: str, start: int, tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """A place before whitespace, in the second half of a longest piece, where the tokens of both sides are those of the text
    around it; None if none of the last few places is."""
    first, last = start + _LONGEST_PIECE // 2, start + _LONGEST_PIECE
    places = [found.start() for found in _CUT.finditer(text, first, last)]
    for at in reversed(places[-_CUT_TRIES:]):
        before, after = text[at - _CUT_SIDE : at], text[at : at + _CUT_SIDE]
        whole, left, right = _token_ids([before + after, before, after], tokenizer)
        if whole == left + right:
            return at
    return None
