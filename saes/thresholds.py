"""Where gates start, and where dead ones are put back (method section 5; our choice, the same for both architectures)."""

import math

import torch
from torch import Tensor

from saes.sae import SAE
from saes.support import latent_chunks


@torch.no_grad()
def firing_quantile(z: Tensor, firing_fraction: float, *, two_sided: bool) -> Tensor:
    """Per latent, the threshold that |z| (one-sided: z) exceeds on about ``firing_fraction`` of the rows of ``z``.

    Args:
        z: ``[batch, n_latents]``.

    Returns:
        ``[n_latents]``: halfway between the ``ceil(firing_fraction * batch)``-th largest value and the next, so that as many
        exceed it and no row lies on the gate's edge, where rounding would decide.
    """
    values = z.abs() if two_sided else z
    n_firing = min(max(1, math.ceil(firing_fraction * len(values))), len(values) - 1)
    return values.topk(n_firing + 1, dim=0).values[-2:].mean(dim=0)


@torch.no_grad()
def calibrate(sae: SAE, x: Tensor, init_l0: float, latents: Tensor | None = None) -> None:
    """Set thresholds so that each latent fires on ``init_l0 / d_sae`` of the rows of ``x [batch, d_in]``.

    ``latents``: indices to set; all by default.
    """
    chosen = torch.arange(sae.cfg.d_sae, device=x.device) if latents is None else latents
    centred = x - sae.b_dec
    for chunk in latent_chunks(len(chosen), centred):
        z = centred @ sae.W_enc[:, chosen[chunk]]
        quantile = firing_quantile(z, init_l0 / sae.cfg.d_sae, two_sided=sae.cfg.two_sided)
        sae.threshold[:, chosen[chunk]] = quantile
    project(sae)


@torch.no_grad()
def project(sae: SAE) -> None:
    """Back onto the constraints: unit decoder rows; theta >= 0 for the sign-aware family."""
    sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True).clamp_min(torch.finfo(sae.W_dec.dtype).tiny))
    if sae.cfg.architecture == "sa_gated":
        sae.threshold.clamp_min_(0)
