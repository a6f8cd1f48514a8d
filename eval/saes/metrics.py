"""Metrics of a trained SAE on held-out activations: one definition each, streaming."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from eval.metrics import RSquared, values
from eval.saes.spread import Spread, held_out_rows, held_out_spread
from hookpoints.shards import ActivationDataset
from saes.sae import SAE

_ANTIPODAL_COSINE = -0.9
_COSINE_CHUNK = 2048


class Rows(NamedTuple):
    """Activations, their latents and reconstructions."""

    x: Tensor
    """``[n, d_in]``."""
    latents: Tensor
    """``[n, d_sae]``, signed."""
    x_hat: Tensor
    """``[n, d_in]``."""

    def only(self, chosen: Tensor) -> "Rows":
        """Rows that ``chosen [n]`` marks."""
        return self if bool(chosen.all()) else Rows(*(part[chosen] for part in self))


class Batch:
    """Some held-out rows as an SAE sees them: all, those that the norm filter keeps, and those without the top rows."""

    def __init__(self, everything: Rows, is_outlier: Tensor, spread: Spread) -> None:
        self.everything = everything
        self.kept = everything.only(~is_outlier)
        self._spread = spread

    @cached_property
    def without_top(self) -> Rows:
        """Kept rows but for the hundredth that lies farthest from the mean."""
        return self.kept.only(~self._spread.is_top(self.kept.x))

    @cached_property
    def n_positive(self) -> Tensor:
        """``[d_sae]``: kept rows on which each latent is positive."""
        return (self.kept.latents > 0).sum(dim=0)

    @cached_property
    def n_negative(self) -> Tensor:
        """``[d_sae]``: kept rows on which each latent is negative."""
        return (self.kept.latents < 0).sum(dim=0)


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


class _Firings:
    """How often each latent fires, by sign."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.n_rows = 0
        self.positive: Tensor | int = 0
        self.negative: Tensor | int = 0

    def update(self, batch: Batch) -> None:
        """Add rows."""
        self.positive = self.positive + batch.n_positive
        self.negative = self.negative + batch.n_negative
        self.n_rows += len(batch.kept.latents)

    @property
    def counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Positive, negative and all firings, ``[d_sae]`` each."""
        positive, negative = torch.as_tensor(self.positive), torch.as_tensor(self.negative)
        return positive, negative, positive + negative


class L0(_Firings):
    """Mean number of non-zero latents per row, of either sign."""

    @property
    def value(self) -> float:
        return float(self.counts[2].sum()) / self.n_rows


class DeadFraction(_Firings):
    """Share of latents that fire on none of the rows."""

    @property
    def value(self) -> float:
        return float((self.counts[2] == 0).double().mean())


class BipolarFraction(_Firings):
    """Share of live latents that fire with each sign at least ``min_fires`` times; 0 when none lives."""

    def __init__(self, name: str, *, min_fires: int) -> None:
        super().__init__(name)
        self._min_fires = min_fires

    @property
    def value(self) -> float:
        positive, negative, fires = self.counts
        is_bipolar = (positive >= self._min_fires) & (negative >= self._min_fires)
        return float(is_bipolar.sum()) / max(1, int((fires > 0).sum()))


class PolarityBalance(_Firings):
    """Mean over live latents of min(n+, n-)/(n+ + n-): 0 one-sided, 1/2 even."""

    @property
    def of_live_latents(self) -> Tensor:
        """``[n_live]``."""
        positive, negative, fires = self.counts
        is_live = fires > 0
        return torch.minimum(positive, negative)[is_live].double() / fires[is_live]

    @property
    def value(self) -> float:
        return float(self.of_live_latents.mean())


class AntipodalFraction(_Firings):
    """Share of live latents whose decoder row ``W_dec [d_sae, d_in]`` has another live one at cosine below -0.9.

    What a one-sided SAE spends two latents on, a signed latent does in one: the counterpart of `BipolarFraction`.
    """

    def __init__(self, name: str, W_dec: Tensor) -> None:
        super().__init__(name)
        self._W_dec = W_dec

    @property
    def value(self) -> float:
        rows = torch.nn.functional.normalize(self._W_dec[self.counts[2] > 0].float(), dim=1)
        if len(rows) == 0:
            return 0.0
        lowest = torch.cat([(chunk @ rows.T).amin(dim=1) for chunk in rows.split(_COSINE_CHUNK)])
        return float((lowest < _ANTIPODAL_COSINE).double().mean())


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


class RowCount:
    """Rows evaluated, or the norm outliers that only ``r_squared_all_rows`` counts."""

    def __init__(self, name: str, *, outliers: bool) -> None:
        self.name = name
        self._outliers = outliers
        self.value = 0

    def update(self, batch: Batch) -> None:
        n_kept = len(batch.kept.x)
        self.value += len(batch.everything.x) - n_kept if self._outliers else n_kept


def sae_metrics(W_dec: Tensor, centre: Tensor, spread: Spread, *, min_fires: int) -> list[SAEMetric]:
    """The columns of an evaluation, in order. ``centre [d_in]``: mean of the training rows."""
    return [
        L0("l0"),
        ReconstructionR2("r_squared", lambda batch: batch.kept),
        ReconstructionR2("r_squared_all_rows", lambda batch: batch.everything),
        DeadFraction("dead_fraction"),
        BipolarFraction("bipolar_fraction", min_fires=min_fires),
        PolarityBalance("polarity_balance"),
        AntipodalFraction("antipodal_fraction", W_dec),
        Shrinkage("shrinkage", centre),
        ReconstructionR2("r_squared_without_top_1_percent", lambda batch: batch.without_top),
        TopShare("top_1_percent_share_of_sst", spread),
        RowCount("n_tokens", outliers=False),
        RowCount("n_outliers", outliers=True),
    ]


@torch.no_grad()
def evaluate(sae: SAE, dataset: ActivationDataset, hook_name: str, *, min_fires: int = 10) -> dict[str, float]:
    """`sae_metrics` on the held-out shards of a hook, by name. Raises ValueError when the SAE's d_in is not the hook's."""
    if sae.cfg.d_in != dataset.d_in(hook_name):
        raise ValueError(
            f"the SAE reads activations of width d_in {sae.cfg.d_in} and {hook_name} has width {dataset.d_in(hook_name)}: "
            "it was trained on another model or hookpoint"
        )
    device = sae.b_dec.device
    spread = held_out_spread(dataset, hook_name)
    metrics = sae_metrics(sae.W_dec, dataset.statistics(hook_name).mean.to(device), spread, min_fires=min_fires)
    for x, is_outlier in held_out_rows(dataset, hook_name, device):
        latents = sae.encode(x)
        measure(metrics, Batch(Rows(x, latents, sae.decode(latents)), is_outlier, spread))
    return values(metrics)


def measure(metrics: Sequence[SAEMetric], batch: Batch) -> None:
    """Update every metric."""
    for metric in metrics:
        metric.update(batch)
