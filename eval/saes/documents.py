"""What each held-out document adds to the sums that metrics are ratios of, so that errors and intervals resample documents."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

MOST_GROUPS = 1024
"""Documents are resampled in at most this many groups of whole documents."""
_LEAST_DOCUMENTS = 2


class RowSums(NamedTuple):
    """Of the held-out rows of an SAE that the norm filter keeps, ``[n_documents]`` float64."""

    document: Tensor
    """Its number in the corpus, int64, ascending."""
    n_rows: Tensor
    n_fires: Tensor
    """Latents that are not zero."""
    sse: Tensor
    """Sum of ||x - x_hat||^2."""
    sst: Tensor
    """Sum of ||x - mean||^2, about the mean of all of them."""


class Losses(NamedTuple):
    """Sums over the scored tokens of each document, ``[n_documents]`` float64."""

    document: Tensor
    """Its number in the corpus, int64."""
    n_tokens: Tensor
    clean: Tensor
    """Cross-entropy in nats, as the model is."""
    spliced: Tensor
    """With reconstructions."""
    zero: Tensor
    """With zeros in their place."""
    mean: Tensor
    """With the training mean in their place."""
    kl: Tensor
    """KL(clean || spliced) in nats."""
    spliced_fraction: float
    """Share of all tokens that were spliced."""


class DocumentSums(NamedTuple):
    """What was measured of one SAE, by document."""

    rows: RowSums
    losses: Losses | None
    """None where none were measured."""


class GroupSums(NamedTuple):
    """Of the SAEs of a sweep, in groups of whole documents: ``[n_seeds, n_coefficients, n_groups]``."""

    n_rows: Array
    n_fires: Array
    sse: Array
    sst: Array
    lost: Array
    """CE_zero - CE_spliced; 0 where no losses were measured."""
    losable: Array
    """CE_zero - CE_clean."""

    @property
    def n_groups(self) -> int:
        return self.sse.shape[-1]


def document_numbers(sums: Sequence[DocumentSums]) -> NDArray[np.int64]:
    """``[n]``: every document that any of them tells of, ascending."""
    seen = [part.document for one in sums for part in (one.rows, one.losses) if part is not None]
    return torch.cat(seen).unique().numpy() if seen else np.empty(0, dtype=np.int64)


def group_sums(members: Sequence[Sequence[DocumentSums]], numbers: NDArray[np.int64]) -> GroupSums:
    """Of ``members`` by (seed, coefficient), over the documents ``numbers``; SAEs of one hookpoint share their groups."""
    n_groups = min(MOST_GROUPS, len(numbers))

    def grouped(document: Tensor, values: Tensor) -> Array:
        place = np.searchsorted(numbers, document.numpy()) % n_groups
        return np.bincount(place, values.numpy(), minlength=n_groups).astype(np.float64)

    def of(one: DocumentSums) -> list[Array]:
        rows, losses = one.rows, one.losses
        parts = [grouped(rows.document, part) for part in (rows.n_rows, rows.n_fires, rows.sse, rows.sst)]
        if losses is None:
            return [*parts, np.zeros(n_groups), np.zeros(n_groups)]
        lost, losable = losses.zero - losses.spliced, losses.zero - losses.clean
        return [*parts, grouped(losses.document, lost), grouped(losses.document, losable)]

    stacked = np.array([[of(one) for one in row] for row in members])
    return GroupSums(*np.moveaxis(stacked, 2, 0))


def row_columns(sums: RowSums) -> Mapping[str, float]:
    """Columns of `eval.csv`."""
    return {"r_squared_standard_error": ratio(sums.sse, sums.sst)[1], "n_documents": float(len(sums.document))}


def ratio(above: Tensor, below: Tensor) -> tuple[float, float]:
    """A ratio of sums over documents ``[n_documents]``, and its standard error (linearised, documents drawn independently).

    NaN where the divisor is not positive; the error also with fewer than two documents.
    """
    divisor = float(below.sum())
    if not divisor > 0:
        return float("nan"), float("nan")
    value, n = float(above.sum()) / divisor, len(above)
    if n < _LEAST_DOCUMENTS:
        return value, float("nan")
    influence = (above - value * below) / divisor
    return value, float((influence.square().sum() * n / (n - 1)).sqrt())
