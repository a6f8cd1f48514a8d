"""Whether a model keeps packed pieces apart, proved on the model itself before a harvest packs anything.

Packed pieces reach the model as `position_ids` that start anew. Models that build their masks from them compute each piece as
if it stood alone, sliding windows included; recurrent ones carry their state over, and others do not look. Where it is not
proved, a row holds one piece and is padded on the right, which is exact for every causal model; that is proved too.
"""

import inspect
from collections.abc import Callable, Iterator
from itertools import pairwise
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from core.schema import Schema
from hookpoints.capture import ActivationCapture, probe_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WINDOW_WORDS = ("window", "chunk", "local", "block", "stride", "span", "sparse", "memory", "topk")
_PAST_WINDOW = 48
"""Tokens of the probe's rows beyond the longest window."""
_SHORT_PIECE = 8
_FLOAT32_TOLERANCE = 1e-4
_ROUNDINGS = 4
_NOISE_FACTOR = 4
_MOST_NOISE = 8
"""Times the tolerance: padding that changes activations by more is not rounding."""

_Values = list[dict[str, Tensor]]
"""Of each piece: ``{hook_name: [length, d_in]}``."""


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
    probe_length: int
    """Tokens in a row of the probe."""


class _Piece(NamedTuple):
    """A piece of a row of the probe."""

    row: int
    start: int
    stop: int


def prove_packing(capture: ActivationCapture, context_length: int) -> Packing:
    """Run two rows of two pieces packed, padded and alone, and compare at every hookpoint.

    One piece is longer than every window that ``context_length`` allows. Raises ValueError when even a padded row differs
    from its piece alone: then later tokens change earlier activations, and none belongs to its text.
    """
    _check_rope(capture.model, context_length)
    longest_window = max((window for window in _windows(capture.model) if window < context_length), default=0)
    length = min(context_length, longest_window + _PAST_WINDOW)
    input_ids, others = probe_tokens(capture.model, 4 * length).reshape(2, 2, length)
    pieces = _pieces(length, longest_window)
    alone = [
        {name: value[0] for name, value in capture.run(input_ids[row, None, start:stop]).items()}
        for row, start, stop in pieces
    ]
    least = max(_FLOAT32_TOLERANCE, _ROUNDINGS * torch.finfo(capture.model.dtype).eps)
    noise = _check_padding(capture, input_ids, pieces, alone, least)
    tolerance = max(least, _NOISE_FACTOR * noise)

    def packing(is_packed: bool, reason: str, error: float | None = None) -> Packing:
        known = error if error is not None and isfinite(error) else None
        return Packing(is_packed=is_packed, reason=reason, error=known, tolerance=tolerance, probe_length=length)

    if "position_ids" not in inspect.signature(capture.model.base_model.forward).parameters:
        return packing(False, f"{type(capture.model).__name__} takes no position_ids")
    try:
        packed = _packed(capture, input_ids, pieces)
        beside_others = _packed(capture, _replaced(input_ids, others, pieces), pieces)
    except (RuntimeError, ValueError, TypeError, IndexError) as failure:
        return packing(False, f"{type(capture.model).__name__} fails on packed pieces: {type(failure).__name__}")
    leak = _difference(packed[1::2], beside_others[1::2], torch.max)
    error = max(leak, _difference(alone, packed, torch.median, longest_window))
    if leak > least:
        return packing(False, f"{type(capture.model).__name__} lets a piece see the one before it", error)
    if error > tolerance:
        return packing(False, f"{type(capture.model).__name__} computes packed pieces otherwise than alone", error)
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


def _check_padding(
    capture: ActivationCapture, input_ids: Tensor, pieces: list[_Piece], alone: _Values, least: float
) -> float:
    """By how much rounding alone changes a piece in a padded row; the tokens of the padding must not matter."""
    padded, otherwise = (_padded(capture, input_ids, pieces, end) for end in (0, -1))
    is_single = capture.model.dtype in (torch.float32, torch.float64)
    change = _difference(padded, otherwise, torch.max if is_single else torch.median)
    noise = _difference(alone, padded, torch.median)
    if max(change / least, noise / (_MOST_NOISE * least)) > 1:
        raise ValueError(
            f"{type(capture.model).__name__} is not causal: tokens after a piece change its activations (by "
            f"{max(change, noise):.2g} of their norm), so an activation does not belong to the text up to it"
        )
    return noise


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


def _pieces(length: int, window: int) -> list[_Piece]:
    """A piece longer than the window before a short one, and a short one before a long one."""
    first = min(max(length - _SHORT_PIECE, window + 1), length - 1)
    short = min(_SHORT_PIECE, length - 1)
    return [_Piece(0, 0, first), _Piece(0, first, length), _Piece(1, 0, short), _Piece(1, short, length)]


def _replaced(input_ids: Tensor, others: Tensor, pieces: list[_Piece]) -> Tensor:
    """Other tokens in the first piece of each row."""
    changed = input_ids.clone()
    for piece in pieces[::2]:
        changed[piece.row, : piece.stop] = others[piece.row, : piece.stop]
    return changed


def _packed(capture: ActivationCapture, input_ids: Tensor, pieces: list[_Piece]) -> _Values:
    position_ids = torch.zeros_like(input_ids)
    for piece in pieces:
        position_ids[piece.row, piece.start : piece.stop] = torch.arange(piece.stop - piece.start)
    values = capture.run(input_ids, position_ids)
    return [{name: value[row, start:stop] for name, value in values.items()} for row, start, stop in pieces]


def _padded(capture: ActivationCapture, input_ids: Tensor, pieces: list[_Piece], end: int) -> _Values:
    """Each piece in a row of its own, padded with its own first or last token."""
    longest = max(piece.stop - piece.start for piece in pieces)
    rows = input_ids.new_empty(len(pieces), longest)
    for row, piece in zip(rows, pieces, strict=True):
        tokens = input_ids[piece.row, piece.start : piece.stop]
        row[:] = tokens[end]
        row[: len(tokens)] = tokens
    values = capture.run(rows)
    lengths = [piece.stop - piece.start for piece in pieces]
    return [{name: value[n, :length] for name, value in values.items()} for n, length in enumerate(lengths)]


def _difference(expected: _Values, got: _Values, over_rows: Callable[[Tensor], Tensor], window: int = 0) -> float:
    """Relative difference of rows, reduced over each piece's rows up to the window and beyond it; the worst of all.

    The median where rounding differs, since an expert chosen otherwise changes a single row by much.
    """
    worst = 0.0
    for one, other in zip(expected, got, strict=True):
        for name, x in one.items():
            scale = x.float().norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
            difference = (other[name].float() - x.float()).norm(dim=-1) / scale
            for start, stop in pairwise(sorted({0, min(window, len(difference)), len(difference)})):
                value = float(over_rows(difference[start:stop]))
                worst = max(worst, value if value == value else float("inf"))
    return worst
