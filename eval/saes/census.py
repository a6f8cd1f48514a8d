"""What each latent does with its two signs: firings, energy and size of each side, and where the bipolar ones sit.

What a signed latent says alone, a one-sided SAE says with two of antipodal decoder rows: such pairs are its bipolar ones.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.saes.batch import Batch

ANTIPODAL_COSINE = -0.9
_COSINE_CHUNK = 2048


class LatentSums(NamedTuple):
    """Over the held-out rows that the norm filter keeps, ``[d_sae]`` each; float64 but for the partner."""

    n_positive: Tensor
    n_negative: Tensor
    size_positive: Tensor
    """Sum of |f| over rows with f > 0."""
    size_negative: Tensor
    energy_positive: Tensor
    """Sum of ||f d||^2 over rows with f > 0, d the decoder row."""
    energy_negative: Tensor
    partner: Tensor
    """int64: the other live latent whose decoder row is most antipodal; -1 where there is none, and of dead latents."""
    cosine: Tensor
    """Between the two; 0 where there is no partner."""

    @property
    def n_fires(self) -> Tensor:
        """``[d_sae]``, of either sign."""
        return self.n_positive + self.n_negative

    @property
    def energy(self) -> Tensor:
        """``[d_sae]``, of both sides."""
        return self.energy_positive + self.energy_negative

    @property
    def is_signed(self) -> bool:
        """Whether any latent is negative anywhere."""
        return bool(self.n_negative.any())

    def is_bipolar(self, min_fires: int) -> Tensor:
        """``[d_sae]`` bool: fires with each sign at least that often."""
        return torch.minimum(self.n_positive, self.n_negative) >= min_fires

    def pairs(self) -> Tensor:
        """``[n, 2]``: latents that are each other's partner at a cosine below -0.9, the lower index first."""
        index = torch.arange(len(self.partner))
        is_mutual = self.partner[self.partner.clamp_min(0)] == index
        is_pair = (self.partner > index) & is_mutual & (self.cosine < ANTIPODAL_COSINE)
        return torch.stack([index, self.partner], dim=1)[is_pair]


class LatentCount:
    """`LatentSums`, as rows come. ``W_dec [d_sae, d_in]``: of the SAE."""

    def __init__(self, W_dec: Tensor) -> None:
        self._W_dec = W_dec
        self._sums = torch.zeros(6, len(W_dec), dtype=torch.float64)

    def update(self, batch: Batch) -> None:
        """Add rows."""
        latent, value = batch.firings.latent, batch.firings.value
        for side, is_on_side in enumerate((value > 0, value < 0)):
            of, size = latent[is_on_side], value[is_on_side].abs()
            for row, weights in ((side, None), (2 + side, size), (4 + side, size.square())):
                self._sums[row] += torch.bincount(of, weights, minlength=self._sums.shape[1])

    @property
    def sums(self) -> LatentSums:
        """Of the rows seen."""
        squared_norm = self._W_dec.double().square().sum(dim=1).cpu()
        n_positive, n_negative, size_positive, size_negative, positive, negative = self._sums.clone()
        partner, cosine = _partners(self._W_dec, (n_positive + n_negative) > 0)
        energies = (positive * squared_norm, negative * squared_norm)
        return LatentSums(n_positive, n_negative, size_positive, size_negative, *energies, partner, cosine)


def latent_columns(sums: LatentSums, min_fires: int) -> dict[str, float]:
    """Columns of `eval.csv` (docs/metrics.md)."""
    is_live, is_bipolar = sums.n_fires > 0, sums.is_bipolar(min_fires)
    n_live, energy = max(1, int(is_live.sum())), max(float(sums.energy.sum()), 1e-300)
    balance = torch.minimum(sums.n_positive, sums.n_negative)[is_live] / sums.n_fires[is_live]
    return {
        "dead_fraction": float((~is_live).double().mean()),
        "bipolar_fraction": float(is_bipolar.sum()) / n_live,
        "polarity_balance": float(balance.mean()),
        "antipodal_fraction": float((sums.cosine < ANTIPODAL_COSINE).sum()) / n_live,
        "bipolar_energy_share": float(sums.energy[is_bipolar].sum()) / energy,
        "negative_energy_share": float(sums.energy_negative.sum()) / energy,
        "antipodal_energy_share": float(sums.energy[sums.pairs().flatten()].sum()) / energy,
    }


class Ranking(NamedTuple):
    """Directions of an SAE by falling energy; a mutual antipodal pair of a one-sided SAE is one direction."""

    is_bipolar: NDArray[np.bool_]
    """``[n_live]``."""
    energy: NDArray[np.float64]
    """``[n_live]``: share of all energy."""


def ranking(sums: LatentSums, min_fires: int) -> Ranking:
    """Of the live directions."""
    energy, is_bipolar, is_listed = sums.energy.clone(), sums.is_bipolar(min_fires), sums.n_fires > 0
    if not sums.is_signed:
        first, second = sums.pairs().unbind(dim=1)
        energy[first] += energy[second]
        is_bipolar[first] = torch.minimum(sums.n_positive[first], sums.n_positive[second]) >= min_fires
        is_listed[second] = False
    order = energy[is_listed].argsort(descending=True, stable=True)
    total = max(float(energy[is_listed].sum()), 1e-300)
    return Ranking(is_bipolar[is_listed][order].numpy(), (energy[is_listed][order] / total).numpy())


def _partners(W_dec: Tensor, is_live: Tensor) -> tuple[Tensor, Tensor]:
    """``[d_sae]`` each: the most antipodal other live latent, and the cosine."""
    partner = torch.full((len(W_dec),), -1, dtype=torch.int64)
    cosine = torch.zeros(len(W_dec), dtype=torch.float64)
    live = is_live.nonzero()[:, 0]
    if len(live) < 2:
        return partner, cosine
    rows = torch.nn.functional.normalize(W_dec[live.to(W_dec.device)].float(), dim=1)
    lowest = [(chunk @ rows.T).min(dim=1) for chunk in rows.split(_COSINE_CHUNK)]
    partner[live] = live[torch.cat([one.indices for one in lowest]).cpu()]
    cosine[live] = torch.cat([one.values for one in lowest]).double().cpu()
    return partner, cosine
