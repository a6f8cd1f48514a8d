"""A piece of every shard is read once more, alone, and compared with the rows that the shard keeps of it.

What was proved of the model on other tokens (`hookpoints.packing`) is so held against the text, at the size of a batch.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from hookpoints.capture import ActivationCapture
from hookpoints.contexts import Contexts
from hookpoints.dependence import relative_change
from hookpoints.passes import Pass

_LEAST_ROWS = 8
_NOISE_FACTOR = 4
_N_TRIED = 4


def check_alone(capture: ActivationCapture, contexts: Contexts, made: Sequence[Pass], tolerance: float) -> None:
    """Raise ValueError where the last pieces of a shard's forward passes differ from themselves alone by more than rounding.

    Differs means the median over a piece's rows. An expert that rounding chooses otherwise changes the tokens after it too, but
    seldom; so one piece that agrees is enough, and of those that do not several are tried.
    """
    changes: list[float] = []
    for one, piece in islice(_last_pieces(contexts, made), _N_TRIED):
        tokens = contexts.input_ids.flatten()[piece][None]
        is_row = (one.place >= piece.start) & (one.place < piece.stop)
        place = one.place[is_row] - piece.start
        alone = _rows(capture, tokens, place)
        change = _change(alone, {name: rows[is_row] for name, rows in one.activations.items()})
        if change <= tolerance or change <= _NOISE_FACTOR * _change(alone, _rows(capture, tokens[:, :-1], place)):
            return
        changes.append(change)
    if changes:
        raise ValueError(
            f"{type(capture.model).__name__} computes pieces of text otherwise in a batch than alone (by {min(changes):.2g} of "
            "their activations' norm or more), so the rows of a shard would depend on what stands beside them; nothing of "
            "this shard was kept. Set harvest.batch_tokens to harvest.context_length, or use another model"
        )


def _last_pieces(contexts: Contexts, made: Sequence[Pass]) -> Iterator[tuple[Pass, slice]]:
    """The last piece with enough rows of every pass, then the one before it, and so on; as places in the flat contexts."""
    starts = (contexts.position_ids.flatten() == 0).nonzero()[:, 0]
    stops = torch.cat([starts[1:], torch.tensor([contexts.input_ids.numel()])])
    of_passes: list[list[int]] = []
    for one in made:
        pieces, n_rows = (torch.searchsorted(starts, one.place, right=True) - 1).unique_consecutive(return_counts=True)
        of_passes.append(pieces[n_rows >= _LEAST_ROWS].tolist())
    for rank in range(1, max(map(len, of_passes), default=0) + 1):
        for one, pieces in zip(made, of_passes, strict=True):
            if rank <= len(pieces):
                yield one, slice(int(starts[pieces[-rank]]), int(stops[pieces[-rank]]))


def _rows(capture: ActivationCapture, tokens: Tensor, place: Tensor) -> dict[str, Tensor]:
    values = capture.run(tokens.to(capture.model.device))
    return {name: value[0, place[place < tokens.shape[1]].to(value.device)] for name, value in values.items()}


def _change(expected: dict[str, Tensor], got: dict[str, Tensor]) -> float:
    n_rows = min(len(rows) for rows in (*expected.values(), *got.values()))
    return max(
        float(relative_change(rows[:n_rows].cpu(), got[name][:n_rows].cpu()).median())
        for name, rows in expected.items()
    )
