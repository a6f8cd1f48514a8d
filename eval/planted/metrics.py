"""How much of a planted dictionary an SAE recovers, and with how many latents."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

_RECOVERED_COSINE = 0.9
_SPENT_COSINE = 0.7


class Recovery(NamedTuple):
    """Columns of `eval.csv`."""

    mean_max_cosine: float
    """Mean over the planted features of the largest cosine with a live pole of the SAE; 0 for one without live poles."""
    recovered_share: float
    """Share of the features where it is at least 0.9."""
    pairs_by_one_latent: float
    """Share of the antipodal pairs that one latent recovers with its two poles, better than any other; NaN without pairs."""
    latents_per_pair: float
    """Live latents spent on a pair: nearest to its axis, at an absolute cosine of at least 0.7; NaN without pairs."""


def recovery(W_dec: Tensor, fires: tuple[Tensor, Tensor], axes: Tensor, n_pairs: int, min_fires: int) -> Recovery:
    """Of an SAE with decoder ``W_dec [d_sae, d_in]`` on features along ``axes [n_axes, d_in]``, the first ``n_pairs`` of which
    have a feature against them too.

    ``fires``: rows on which each latent is positive, and negative, ``[d_sae]`` each; a pole lives from ``min_fires`` on.
    """
    cosine = normalize(axes.double(), dim=1) @ normalize(W_dec.double(), dim=1).T
    positive, negative = (count >= min_fires for count in fires)
    along, latent_along = _best(cosine, positive, negative)
    against, latent_against = _best(-cosine[:n_pairs], positive, negative)
    found = torch.cat([along, against])
    mean, share = float(found.mean()), float((found >= _RECOVERED_COSINE).double().mean())
    if n_pairs == 0:
        return Recovery(mean, share, float("nan"), float("nan"))
    both = torch.minimum(along[:n_pairs], against) >= _RECOVERED_COSINE
    by_one = both & (latent_along[:n_pairs] == latent_against)
    nearest = cosine.abs().max(dim=0)
    spent = (positive | negative) & (nearest.values >= _SPENT_COSINE) & (nearest.indices < n_pairs)
    return Recovery(mean, share, float(by_one.double().mean()), float(spent.sum()) / n_pairs)


def _best(cosine: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Largest cosine of features ``[n, d_sae]`` with a live pole, at least 0, and the latent of that pole; ``[n]`` each."""
    dead = cosine.new_tensor(-1.0)
    poles = torch.maximum(torch.where(positive, cosine, dead), torch.where(negative, -cosine, dead))
    best = poles.max(dim=1)
    return best.values.clamp_min(0), best.indices
