"""Metrics of a trained SAE on held-out activations: one definition each, streaming."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from eval.metrics import RSquared, values
from eval.saes.batch import Batch, Rows
from eval.saes.census import LatentCount, LatentSums, latent_columns
from eval.saes.documents import RowSums, row_columns
from eval.saes.spread import Spread, held_out_rows, held_out_spread, squared_distance
from hookpoints.shards import ActivationDataset
from saes.sae import SAE


class SAEMetric(Protocol):
    """A column of an evaluation of SAEs; columns that name no other rows leave the norm outliers out."""

    name: str

    def update(self, batch: Batch) -> None:
        """Add rows."""
        ...

    @property
    def value(self) -> float:
        """Of the rows seen."""
        ...


class ReconstructionR2:
    """`RSquared` of reconstructions, over some of the rows of each batch."""

    def __init__(self, name: str, rows: Callable[[Batch], Rows]) -> None:
        self.name = name
        self._rows = rows
        self._r_squared = RSquared(name)

    def update(self, batch: Batch) -> None:
        rows = self._rows(batch)
        self._r_squared.update(rows.x, rows.x_hat)

    @property
    def value(self) -> float:
        return self._r_squared.value


class TopShare:
    """Share of SST that the top rows hold: the hundredth of the kept rows that lies farthest from their mean."""

    def __init__(self, name: str, spread: Spread) -> None:
        self.name = name
        self.value = spread.top_share

    def update(self, batch: Batch) -> None:
        """A property of the rows alone, known before."""


class L0:
    """Mean number of non-zero latents per row, of either sign."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._n_fires = self.n_rows = 0

    def update(self, batch: Batch) -> None:
        """Add rows."""
        self._n_fires += len(batch.firings.value)
        self.n_rows += len(batch.kept.latents)

    @property
    def value(self) -> float:
        return self._n_fires / self.n_rows


class Shrinkage:
    """Mean of <x_c, xhat_c>/||xhat_c||^2, with x_c and xhat_c about a fixed centre; 1 is none, above 1 is shrunk.

    (Gated SAE paper, section 5.) Rows reconstructed as the centre itself say nothing and are left out.
    """

    def __init__(self, name: str, centre: Tensor) -> None:
        self.name = name
        self._centre = centre.double()
        self._sum, self._n_rows = 0.0, 0

    def update(self, batch: Batch) -> None:
        x_centred, x_hat_centred = batch.kept.x.double() - self._centre, batch.kept.x_hat.double() - self._centre
        squared = x_hat_centred.pow(2).sum(dim=1)
        says_something = squared > 0
        ratios = (x_centred * x_hat_centred).sum(dim=1)[says_something] / squared[says_something]
        self._sum += float(ratios.sum())
        self._n_rows += int(says_something.sum())

    @property
    def value(self) -> float:
        return self._sum / self._n_rows if self._n_rows else float("nan")


class DocumentCount:
    """`RowSums`, as rows come."""

    def __init__(self) -> None:
        self._pieces: list[tuple[Tensor, Tensor]] = []

    def update(self, batch: Batch) -> None:
        """Add rows."""
        rows, spread = batch.kept, batch.spread
        fires = torch.bincount(batch.firings.row, minlength=len(rows.x))
        per_row = (
            torch.ones(len(rows.x), dtype=torch.float64),
            fires.double(),
            (rows.x.double() - rows.x_hat.double()).square().sum(dim=1).cpu(),
            squared_distance(rows.x, spread.mean.to(rows.x.device)).cpu(),
        )
        self._pieces.append(_by_document(batch.document, torch.stack(per_row, dim=1)))

    @property
    def sums(self) -> RowSums:
        """Of the rows seen."""
        documents, sums = (torch.cat(parts) for parts in zip(*self._pieces, strict=True))
        numbers, by_document = _by_document(documents, sums)
        return RowSums(numbers, *by_document.unbind(dim=1))


def _by_document(documents: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers ``[n_documents]`` and the sums ``[n_documents, m]`` of ``values [n, m]``."""
    numbers, place = documents.unique(return_inverse=True)
    return numbers, values.new_zeros(len(numbers), values.shape[1]).index_add_(0, place, values)


class RowCount:
    """Rows evaluated, or the norm outliers that only ``r_squared_all_rows`` counts."""

    def __init__(self, name: str, *, outliers: bool) -> None:
        self.name = name
        self._outliers = outliers
        self.value = 0

    def update(self, batch: Batch) -> None:
        n_kept = len(batch.kept.x)
        self.value += len(batch.everything.x) - n_kept if self._outliers else n_kept


def sae_metrics(centre: Tensor, spread: Spread) -> list[SAEMetric]:
    """Columns of an evaluation, in order. ``centre [d_in]``: mean of the training rows."""
    return [
        L0("l0"),
        ReconstructionR2("r_squared", lambda batch: batch.kept),
        ReconstructionR2("r_squared_all_rows", lambda batch: batch.everything),
        Shrinkage("shrinkage", centre),
        ReconstructionR2("r_squared_without_top_1_percent", lambda batch: batch.without_top),
        TopShare("top_1_percent_share_of_sst", spread),
        RowCount("n_tokens", outliers=False),
        RowCount("n_outliers", outliers=True),
    ]


class Measured(NamedTuple):
    """What is known of an SAE on held-out rows."""

    columns: dict[str, float]
    """Of `eval.csv`."""
    documents: RowSums
    latents: LatentSums


@torch.no_grad()
def evaluate(sae: SAE, dataset: ActivationDataset, hook_name: str, *, min_fires: int = 10) -> Measured:
    """On the held-out shards of a hook. Raises ValueError when the SAE's d_in is not the hook's."""
    if sae.cfg.d_in != dataset.d_in(hook_name):
        raise ValueError(
            f"the SAE reads activations of width d_in {sae.cfg.d_in} and {hook_name} has width {dataset.d_in(hook_name)}: "
            "it was trained on another model or hookpoint"
        )
    device = sae.b_dec.device
    spread = held_out_spread(dataset, hook_name)
    metrics = sae_metrics(dataset.statistics(hook_name).mean.to(device), spread)
    documents, latents = DocumentCount(), LatentCount(sae.W_dec)
    for piece in held_out_rows(dataset, hook_name, device):
        encoded = sae.encode(piece.x)
        batch = Batch(Rows(piece.x, encoded, sae.decode(encoded)), piece.is_outlier, piece.document, spread)
        for counted in (*metrics, documents, latents):
            counted.update(batch)
    by_document, by_latent = documents.sums, latents.sums
    columns = {**values(metrics), **row_columns(by_document), **latent_columns(by_latent, min_fires)}
    return Measured(columns, by_document, by_latent)
