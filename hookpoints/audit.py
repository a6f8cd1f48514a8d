"""A piece of every shard is read once more, alone, and compared with the rows that the shard keeps of it.

What was proved of the model on other tokens (`hookpoints.packing`) is so held against the text, at the size of a batch.
"""

import torch
from torch import Tensor

from hookpoints.capture import ActivationCapture
from hookpoints.contexts import Contexts
from hookpoints.dependence import relative_change
from hookpoints.passes import Pass

_LEAST_ROWS = 8
_NOISE_FACTOR = 4


def check_alone(capture: ActivationCapture, contexts: Contexts, made: Pass, tolerance: float) -> None:
    """Raise ValueError where the last piece of a forward pass differs from itself alone by more than rounding.

    Differs means the median over its rows, since an expert that rounding chooses otherwise changes a single one by much. What
    rounding does is ``tolerance`` or, where that does not do, several times what more tokens in its row change.
    """
    input_ids, position_ids = contexts.input_ids.flatten(), contexts.position_ids.flatten()
    starts = (position_ids == 0).nonzero()[:, 0]
    pieces, n_rows = (torch.searchsorted(starts, made.place, right=True) - 1).unique_consecutive(return_counts=True)
    long_enough = pieces[n_rows >= _LEAST_ROWS]
    if not len(long_enough):
        return
    start = int(starts[long_enough[-1]])
    later = starts[starts > start]
    tokens = input_ids[start : int(later[0]) if len(later) else None][None]
    is_row = (made.place >= start) & (made.place < start + tokens.shape[1])
    place = made.place[is_row] - start
    alone = _rows(capture, tokens, place)
    change = _change(alone, {name: rows[is_row] for name, rows in made.activations.items()})
    if change <= tolerance or change <= _NOISE_FACTOR * _change(alone, _rows(capture, tokens[:, :-1], place)):
        return
    raise ValueError(
        f"{type(capture.model).__name__} computes a piece of {tokens.shape[1]} tokens otherwise in a batch than alone (by "
        f"{change:.2g} of its activations' norm), so the rows of a shard would depend on what stands beside them; nothing of "
        "this shard was kept. Set harvest.batch_tokens to harvest.context_length, or use another model"
    )


def _rows(capture: ActivationCapture, tokens: Tensor, place: Tensor) -> dict[str, Tensor]:
    values = capture.run(tokens.to(capture.model.device))
    return {name: value[0, place[place < tokens.shape[1]].to(value.device)] for name, value in values.items()}


def _change(expected: dict[str, Tensor], got: dict[str, Tensor]) -> float:
    n_rows = min(len(rows) for rows in (*expected.values(), *got.values()))
    return max(
        float(relative_change(rows[:n_rows].cpu(), got[name][:n_rows].cpu()).median())
        for name, rows in expected.items()
    )
