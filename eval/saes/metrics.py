"""Metrics of a trained SAE on held-out activations: one definition each, streaming, float64 accumulators."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from hookpoints.shards import ActivationDataset
from saes.sae import SAE

_ROWS_PER_STEP = 4096
_ANTIPODAL_COSINE = -0.9
_COSINE_CHUNK = 2048


class Evaluation(NamedTuple):
    """Everything measured of one SAE; see the functions of the same names for the formulas."""

    l0: float
    """Mean number of non-zero latents per token, of either sign."""
    r_squared: float
    """1 - SSE/SST over the rows that the norm-outlier filter keeps; SST about the mean of those same rows."""
    r_squared_all_rows: float
    """The same over every row, outliers included."""
    dead_fraction: float
    """Share of latents that fire on none of the evaluation tokens."""
    bipolar_fraction: float
    """Share of live latents that fire with each sign at least ``min_fires`` times."""
    polarity_balance: float
    """Mean over live latents of min(n+, n-)/(n+ + n-)."""
    antipodal_fraction: float
    """Share of live latents whose decoder row has another live one at cosine below -0.9."""
    shrinkage: float
    """Mean of <x_c, xhat_c>/||xhat_c||^2, centred; 1 is none, above 1 is shrunk."""
    n_tokens: int
    """Rows evaluated (without outliers)."""
    n_outliers: int
    """Rows that only ``r_squared_all_rows`` counts."""


class SquaredErrors:
    """Streaming SSE and SST; SST is about the mean of the rows seen, per dimension.

    Sums run about the first batch's mean, so that they do not cancel.
    """

    def __init__(self) -> None:
        self.n_rows = 0
        self._sse = 0.0
        self._origin: Tensor | None = None
        self._sum: Tensor | None = None
        self._sum_of_squares = 0.0

    def update(self, x: Tensor, x_hat: Tensor) -> None:
        """Add rows ``x`` and their reconstructions ``x_hat``, both ``[n, d_in]``."""
        if len(x) == 0:
            return
        exact = x.double()
        if self._origin is None or self._sum is None:
            self._origin, self._sum = exact.mean(dim=0), torch.zeros_like(exact[0])
        shifted = exact - self._origin
        self._sse += float((exact - x_hat.double()).pow(2).sum())
        self._sum += shifted.sum(dim=0)
        self._sum_of_squares += float(shifted.pow(2).sum())
        self.n_rows += len(x)

    @property
    def r_squared(self) -> float:
        """1 - SSE/SST; NaN when there are no rows or they do not vary."""
        if self._sum is None:
            return float("nan")
        sst = self._sum_of_squares - float(self._sum.pow(2).sum()) / self.n_rows
        return 1 - self._sse / sst if sst > 0 else float("nan")


def r_squared(x: Tensor, x_hat: Tensor) -> float:
    """R2 = 1 - SSE/SST of ``x_hat [n, d_in]`` for ``x [n, d_in]``, SST about the mean of ``x`` per dimension."""
    errors = SquaredErrors()
    errors.update(x, x_hat)
    return errors.r_squared


class FiringCounts:
    """How often each latent fires, by sign."""

    def __init__(self, d_sae: int, device: torch.device | str = "cpu") -> None:
        self.positive = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.negative = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.n_rows = 0

    def update(self, latents: Tensor) -> None:
        """Add signed latents ``[n, d_sae]``."""
        self.positive += (latents > 0).sum(dim=0)
        self.negative += (latents < 0).sum(dim=0)
        self.n_rows += len(latents)

    @property
    def fires(self) -> Tensor:
        """``[d_sae]``: rows on which the latent is not zero."""
        return self.positive + self.negative

    @property
    def l0(self) -> float:
        """Mean number of non-zero latents per row."""
        return float(self.fires.sum()) / self.n_rows

    @property
    def dead_fraction(self) -> float:
        """Share of latents that never fired."""
        return float((self.fires == 0).double().mean())

    def bipolar_fraction(self, min_fires: int) -> float:
        """Share of live latents that fired with each sign at least ``min_fires`` times; 0 when none lives."""
        is_bipolar = (self.positive >= min_fires) & (self.negative >= min_fires)
        return float(is_bipolar.sum()) / max(1, int((self.fires > 0).sum()))

    def polarity_balance(self) -> Tensor:
        """``[n_live]``: min(n+, n-)/(n+ + n-) of every live latent; 0 one-sided, 1/2 even."""
        is_live = self.fires > 0
        return torch.minimum(self.positive, self.negative)[is_live].double() / self.fires[is_live]


def antipodal_fraction(W_dec: Tensor, is_live: Tensor) -> float:
    """Share of live latents whose decoder row ``W_dec [d_sae, d_in]`` has a live one at cosine below -0.9.

    What a one-sided SAE spends two latents on, a signed latent does in one: the Gated counterpart of `bipolar_fraction`.
    """
    rows = torch.nn.functional.normalize(W_dec[is_live].float(), dim=1)
    if len(rows) == 0:
        return 0.0
    lowest = torch.cat([(chunk @ rows.T).amin(dim=1) for chunk in rows.split(_COSINE_CHUNK)])
    return float((lowest < _ANTIPODAL_COSINE).double().mean())


class Shrinkage:
    """Streaming mean of <x_c, xhat_c>/||xhat_c||^2, with x_c and xhat_c about a fixed centre (Gated SAE paper, section 5)."""

    def __init__(self, centre: Tensor) -> None:
        self._centre = centre.double()
        self._sum, self._n_rows = 0.0, 0

    def update(self, x: Tensor, x_hat: Tensor) -> None:
        """Add rows; those reconstructed as the centre itself say nothing and are left out."""
        x_centred, x_hat_centred = x.double() - self._centre, x_hat.double() - self._centre
        squared = x_hat_centred.pow(2).sum(dim=1)
        says_something = squared > 0
        ratios = (x_centred * x_hat_centred).sum(dim=1)[says_something] / squared[says_something]
        self._sum += float(ratios.sum())
        self._n_rows += int(says_something.sum())

    @property
    def value(self) -> float:
        """The mean; NaN without rows."""
        return self._sum / self._n_rows if self._n_rows else float("nan")


@torch.no_grad()
def evaluate(sae: SAE, dataset: ActivationDataset, hook_name: str, *, min_fires: int = 10) -> Evaluation:
    """Measure an SAE on the held-out shards of a hook. Raises ValueError when its d_in is not the hook's."""
    if sae.cfg.d_in != dataset.d_in(hook_name):
        raise ValueError(
            f"the SAE reads activations of width d_in {sae.cfg.d_in} and {hook_name} has width {dataset.d_in(hook_name)}: "
            "it was trained on another model or hookpoint"
        )
    device = sae.b_dec.device
    kept, everything = SquaredErrors(), SquaredErrors()
    counts = FiringCounts(sae.cfg.d_sae, device)
    shrinkage = Shrinkage(dataset.statistics(hook_name).mean.to(device))
    for x, is_outlier in held_out_rows(dataset, hook_name, device):
        latents = sae.encode(x)
        x_hat = sae.decode(latents)
        everything.update(x, x_hat)
        if bool(is_outlier.any()):
            x, x_hat, latents = x[~is_outlier], x_hat[~is_outlier], latents[~is_outlier]
        kept.update(x, x_hat)
        counts.update(latents)
        shrinkage.update(x, x_hat)
    return Evaluation(
        l0=counts.l0,
        r_squared=kept.r_squared,
        r_squared_all_rows=everything.r_squared,
        dead_fraction=counts.dead_fraction,
        bipolar_fraction=counts.bipolar_fraction(min_fires),
        polarity_balance=float(counts.polarity_balance().mean()),
        antipodal_fraction=antipodal_fraction(sae.W_dec, counts.fires > 0),
        shrinkage=shrinkage.value,
        n_tokens=kept.n_rows,
        n_outliers=everything.n_rows - kept.n_rows,
    )


def held_out_rows(
    dataset: ActivationDataset, hook_name: str, device: torch.device | str
) -> Iterable[tuple[Tensor, Tensor]]:
    """Pieces of the held-out rows ``[n, d_in]`` with ``[n]`` bool that marks norm outliers."""
    for index in dataset.shards("held_out"):
        rows = dataset.read(hook_name, index)
        for x, is_outlier in zip(
            rows.activations.split(_ROWS_PER_STEP), rows.is_outlier.split(_ROWS_PER_STEP), strict=True
        ):
            yield x.to(device), is_outlier.to(device)
