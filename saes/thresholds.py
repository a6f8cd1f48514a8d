"""Where thresholds start, and where those of dead latents are put back (our choice, the same for every architecture)."""

import math

import torch
from torch import Tensor

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
def firing_thresholds(
    W_enc: Tensor, centred: Tensor, latents: Tensor, firing_fraction: float, *, two_sided: bool
) -> Tensor:
    """`firing_quantile` of ``latents [n]`` on rows ``centred [batch, d_in]`` = x - b_dec, in chunks: ``[n]``."""
    return torch.cat(
        [
            firing_quantile(centred @ W_enc[:, latents[chunk]], firing_fraction, two_sided=two_sided)
            for chunk in latent_chunks(len(latents), centred)
        ]
    )
