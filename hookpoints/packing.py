"""Whether a model keeps packed pieces apart, proved on the model itself before a harvest packs anything.

Packed pieces reach the model as `position_ids` that start anew. Models that build their masks from them compute each piece as
if it stood alone, sliding windows included; recurrent ones carry their state over, and others do not look. Where it is not
proved, a row holds one piece and is padded on the right, which is exact for every causal model; that is proved too.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core.schema import Schema
from hookpoints.capture import ActivationCapture
from hookpoints.dependence import ProbeRow, dependence, relative_change
from hookpoints.probe import FAILURES, probe_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WINDOW_WORDS = ("window", "chunk", "local", "block", "stride", "span", "sparse", "memory", "topk")
_SHORT = 9
"""Tokens of the row of which every single one is tested."""
_BEFORE, _AFTER = 5, 11
"""Tokens of the pieces around the long one."""
_SMALLEST_PART = 4
_N_OTHERS = 3
_LEAST_TOLERANCE = 1e-5
_ROUNDINGS = 2
_ROUNDING_FACTOR = 3
"""Packed and alone may differ by the largest of the least, roundings of the dtype, and this times what a row's length changes."""
_MOST_CHANGE = 1e-3
_MOST_CHANGE_IN_HALF = 0.125
"""What the rows beside a piece, or more tokens in its row, change by rounding is less. Where rounding chooses other experts it is
more, so other tokens have another try."""


class Packing(Schema):
    """Whether pieces share rows of the model's input, and what was measured to decide it."""

    is_packed: bool
    """Several pieces in a row; else one piece a row, padded on the right."""
    reason: str
    """Why."""
    error: float | None
    """Packed against alone: relative difference of rows, worst piece and hook; None where packed pieces cannot be run."""
    tolerance: float
    """What the error may be."""
    rounding: float
    """By how much the length of a row changes activations."""


def prove_packing(capture: ActivationCapture, prefix: Sequence[int] = ()) -> Packing:
    """Replace tokens that activations may not depend on, and compare rows packed and alone, at every hookpoint.

    Every token of a short row is tested for what comes after it, and some of a whole context; pieces start with the tokens
    of ``prefix``. Raises ValueError when a token depends on later ones, on the rows beside it or on the length of its row:
    then no activation belongs to its text.
    """
    context_length = capture.context_length
    _check_rope(capture.model, context_length)
    short = _row(capture.model, min(context_length, _SHORT), 0, prefix)
    long = _row(capture.model, context_length, _longest_window(capture.model, context_length), prefix)
    beside = _check_causal(capture, short, has_row_beside=True)
    most = _MOST_CHANGE if capture.model.dtype in (torch.float32, torch.float64) else _MOST_CHANGE_IN_HALF
    _check_change(capture, beside, most, "beside other rows")
    alone = capture.run(long.input_ids[None, long.middle])
    rounding = _of_length(capture, long.input_ids[long.middle], alone)
    for other in long.others:
        if rounding <= most:
            break
        rounding = _of_length(capture, other, capture.run(other[None]))
    _check_change(capture, rounding, most, "in a longer row")
    packing = _packing(capture, short, long, alone, rounding, has_row_beside=beside > 0)
    if not packing.is_packed:
        _check_causal(capture, long, has_row_beside=beside > 0)
    return packing


def _check_change(capture: ActivationCapture, change: float, most: float, where: str) -> None:
    if change > most:
        raise ValueError(
            f"{type(capture.model).__name__} computes a piece otherwise {where} (by {change:.2g} of its activations' norm), so "
            "an activation does not belong to the text up to it"
        )


def _of_length(capture: ActivationCapture, tokens: Tensor, whole: Mapping[str, Tensor]) -> float:
    """By how much more tokens in its row change a piece: of several lengths the largest."""
    lengths = (_BEFORE, _AFTER, 1 + len(tokens) // 3)
    return max(_beyond_rounding(capture, tokens[:length], whole, 0) for length in lengths)


def _check_causal(capture: ActivationCapture, row: ProbeRow, *, has_row_beside: bool) -> float:
    """What follows a token, of every token of a short row and one of a long one; returns by how much rows beside it matter."""
    name, tokens = type(capture.model).__name__, torch.arange(len(row.input_ids))
    last = tokens[:-1] if len(tokens) <= _SHORT else tokens[[len(tokens) // 3]]
    found = dependence(capture, row, None, tokens > last[:, None], has_row_beside=has_row_beside)
    if found.own == 0:
        raise ValueError(f"what is read of {name} does not depend on its tokens, so it is no activation of theirs")
    if found.is_leak:
        raise ValueError(
            f"{name} is not causal: tokens after a piece change its activations (by {found.leak:.2g} of their norm), so an "
            "activation does not belong to the text up to it"
        )
    return found.beside


def _packing(
    capture: ActivationCapture,
    short: ProbeRow,
    long: ProbeRow,
    alone: Mapping[str, Tensor],
    rounding: float,
    *,
    has_row_beside: bool,
) -> Packing:
    """Tokens of other pieces are replaced, and the piece in the middle of a long row is compared with what it is ``alone``."""
    name = type(capture.model).__name__
    least = max(_LEAST_TOLERANCE, _ROUNDINGS * torch.finfo(capture.model.dtype).eps)
    tolerance = max(least, _ROUNDING_FACTOR * rounding)

    def packing(is_packed: bool, reason: str, error: float | None = None) -> Packing:
        known = error if error is not None and isfinite(error) else None
        return Packing(is_packed=is_packed, reason=reason, error=known, tolerance=tolerance, rounding=rounding)

    if "position_ids" not in inspect.signature(capture.model.base_model.forward).parameters:
        return packing(False, f"{name} takes no position_ids")
    tokens = torch.arange(len(short.input_ids))
    starts = torch.tensor([piece.start for piece in short.pieces[1:]])
    around_each = torch.cat([tokens > tokens[:-1, None], tokens < starts[:, None]])
    tokens, middle = torch.arange(len(long.input_ids)), long.middle
    around_middle = (tokens < middle.start) | (tokens >= (middle.stop + len(tokens)) // 2)
    try:
        each = dependence(capture, short, short.position_ids, around_each, has_row_beside=True)
        long_one = dependence(capture, long, long.position_ids, around_middle[None], has_row_beside=has_row_beside)
    except FAILURES as failure:
        return packing(False, f"{name} fails on packed pieces: {type(failure).__name__}")
    if each.is_leak or long_one.is_leak:
        return packing(False, f"{name} lets a piece see another one", max(each.leak, long_one.leak))
    last = _beyond_rounding(capture, long.input_ids[long.pieces[-1]], long_one.base, long.pieces[-1].start)
    error = max(
        last,
        *(_largest_median(relative_change(value[0], long_one.base[hook][middle])) for hook, value in alone.items()),
    )
    if error > tolerance:
        return packing(False, f"{name} computes packed pieces otherwise than alone", error)
    return packing(True, "every piece is computed as it is alone", error)


def _check_rope(model: "PreTrainedModel", context_length: int) -> None:
    """Frequencies that follow the longest position of a batch make a row depend on the rows beside it."""
    text = model.config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    layers = [part for part in (rope, *rope.values()) if isinstance(part, dict)]
    for part in layers:
        if part.get("rope_type") not in ("longrope", "dynamic"):
            continue
        lengths = [part.get("original_max_position_embeddings"), getattr(text, "max_position_embeddings", None)]
        original = min((length for length in lengths if isinstance(length, int)), default=0)
        if context_length > original:
            raise ValueError(
                f"the rotary frequencies of {type(model).__name__} ({part['rope_type']}) depend on the longest position of a "
                f"batch beyond {original} tokens, so a row would depend on the rows beside it; set harvest.context_length to "
                f"{original} or less"
            )


def _longest_window(model: "PreTrainedModel", context_length: int) -> int:
    """Of those that a piece of a packed context can be longer than; 0 where there is none."""
    return max((window for window in _windows(model) if window < context_length), default=0)


def _windows(model: "PreTrainedModel") -> Iterator[int]:
    """Lengths over which a model's layers look back, as far as its configuration names them; too many do no harm."""
    for config in (model.config, model.config.get_text_config()):
        for name, value in vars(config).items():
            if any(word in name for word in _WINDOW_WORDS):
                yield from _numbers(value)


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)


def _row(model: "PreTrainedModel", length: int, window: int, prefix: Sequence[int]) -> ProbeRow:
    """Two or three pieces, the one in the middle as long as it can be, and longer than the window."""
    before, after = min(_BEFORE, length // 3 or 1), min(_AFTER, length // 3)
    spare = max(0, window + 1 - (length - before - after))
    after = max(min(after, 1), after - spare)
    before = max(1, min(before, length - after - window - 1))
    pieces = [slice(start, stop) for start, stop in pairwise(sorted({0, before, length - after, length}))]
    input_ids, *others = (probe_tokens(model, length, shift)[0] for shift in range(_N_OTHERS + 1))
    special = _special_tokens(model)
    if length > 2 * _SHORT:
        at = length // 2
        input_ids[at : at + len(special)] = torch.tensor(special, dtype=torch.long)
    for piece in pieces:
        start = list(prefix)[: piece.stop - piece.start]
        input_ids[piece.start : piece.start + len(start)] = torch.tensor(start, dtype=torch.long)
    return ProbeRow(input_ids, others, pieces)


def _special_tokens(model: "PreTrainedModel") -> list[int]:
    """Tokens that begin, end and pad texts, as far as the configuration names them."""
    text = model.config.get_text_config()
    named = (getattr(text, key, None) for key in ("bos_token_id", "eos_token_id", "pad_token_id"))
    return [token for token in named if isinstance(token, int) and 0 <= token < text.vocab_size]


def _beyond_rounding(capture: ActivationCapture, tokens: Tensor, row: Mapping[str, Tensor], start: int) -> float:
    """Relative change of tokens in ``row``, a run of theirs ``[1, length, d_in]`` or ``[length, d_in]``, against them alone."""
    return max(
        _largest_median(relative_change(value[0], row[name].reshape(-1, value.shape[-1])[start : start + len(tokens)]))
        for name, value in capture.run(tokens[None]).items()
    )


def _largest_median(change: Tensor) -> float:
    """Of the parts of ``change [length]``, which are shortest at its ends.

    Medians, since an expert that rounding chooses otherwise changes a single token by much.
    """
    length = len(change)
    from_start = [size for size in (_SMALLEST_PART * 2**n for n in range(length.bit_length())) if 2 * size <= length]
    borders = sorted({0, *from_start, *(length - size for size in from_start), length})
    return max(float(change[start:stop].median()) for start, stop in pairwise(borders))
