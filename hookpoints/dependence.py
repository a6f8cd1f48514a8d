"""On which tokens an activation depends, measured: others are replaced, in runs of one shape, and it must not move.

Runs of one shape take the same path through the same kernels, so what does not depend on a replaced token does not change by
one bit. Where experts sort tokens into groups of other sizes it changes by rounding, as much as in a row of the batch in
which nothing is replaced; and an expert that rounding chooses otherwise is not the same one for every replacement.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hookpoints.capture import ActivationCapture

_EXACT = 1e-6
_NOISE_FACTOR = 4


class ProbeRow(NamedTuple):
    """A row of pieces, and other tokens for it."""

    input_ids: Tensor
    """``[length]``."""
    others: list[Tensor]
    """``[length]`` each, nowhere the same token."""
    pieces: list[slice]
    """Where its pieces are."""

    @property
    def position_ids(self) -> Tensor:
        """``[length]``, starting anew at every piece."""
        return torch.cat([torch.arange(piece.stop - piece.start) for piece in self.pieces])

    @property
    def middle(self) -> slice:
        """The piece between the others; of two the last."""
        return self.pieces[len(self.pieces) // 2]


class Dependence(NamedTuple):
    """Relative changes of activations ``[d_in]``, the largest of all hookpoints."""

    leak: float
    """Of tokens that none of the replaced ones may change."""
    beside: float
    """Of a row of the batch in which nothing was replaced."""
    own: float
    """Of replaced tokens."""
    base: dict[str, Tensor]
    """Activations ``[length, d_in]`` of the row itself, by hook name."""

    @property
    def is_leak(self) -> bool:
        """Whether what may not change did."""
        return self.leak > max(_EXACT, _NOISE_FACTOR * self.beside)


def dependence(
    capture: ActivationCapture, row: ProbeRow, position_ids: Tensor | None, replaced: Tensor, *, has_row_beside: bool
) -> Dependence:
    """Run a row as it is and with tokens replaced, and compare the tokens that may not depend on them.

    A token may depend on those of its own piece up to itself.

    Args:
        capture: of a model whose hookpoints are compared.
        row: tokens, and others to replace them with, tried one after the other while what may not change does.
        position_ids: ``[length]``, starting anew at every piece; None for one piece.
        replaced: ``[n, length]`` bool, a row of the batch for each set of tokens to replace.
        has_row_beside: one more row in which nothing is replaced, to measure what batching changes.
    """
    positions = torch.arange(len(row.input_ids)) if position_ids is None else position_ids
    piece, place = (positions == 0).cumsum(0), torch.arange(len(row.input_ids))
    may_depend = (piece[:, None] == piece) & (place[:, None] >= place)
    is_barred = ~(may_depend & replaced[:, None]).any(dim=-1)
    if has_row_beside:
        replaced = torch.cat([replaced, torch.zeros_like(replaced[:1])])
        is_barred = torch.cat([is_barred, torch.zeros_like(is_barred[:1])])
    rows = row.input_ids.expand(len(replaced), -1)
    positions_of_rows = None if position_ids is None else position_ids.to(rows.device).expand(rows.shape)
    base = capture.run(rows, positions_of_rows)
    change = torch.full(rows.shape, torch.inf)
    for other in row.others:
        changed = capture.run(torch.where(replaced.to(rows.device), other, rows), positions_of_rows)
        change = change.minimum(_change(base, changed))
        if float(change[is_barred].max()) <= _EXACT:
            break
    beside = float(change[-1].max()) if has_row_beside else 0.0
    return Dependence(
        leak=float(change[is_barred].max()),
        beside=beside,
        own=float(change[replaced].max()),
        base={name: value[0] for name, value in base.items()},
    )


def relative_change(expected: Tensor, got: Tensor) -> Tensor:
    """``[...]``: of vectors ``[..., d_in]``; infinite where it is no number."""
    norm = expected.float().norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    change = (got.float() - expected.float()).norm(dim=-1) / norm
    return change.nan_to_num(nan=torch.inf).cpu()


def _change(expected: dict[str, Tensor], got: dict[str, Tensor]) -> Tensor:
    changes = [relative_change(value, got[name]) for name, value in expected.items()]
    return torch.stack(changes).amax(dim=0)
