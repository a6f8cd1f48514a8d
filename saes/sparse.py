"""The exact gradients of the objective on its support (method section 6).

p, q and f of a latent share one support S = {p+ > 0 or p- > 0}, and the Heaviside gate has zero gradient almost
everywhere, so beyond the encoder product every value and every gradient lives on the |S| = batch * L0 entries of S.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from saes.objective import Gradients, Objective, dense_gradients, mean_squared_norm
from saes.sae import SAE
from saes.support import MAX_ENTRIES, Support, find_support, sampled_products, starts

DENSE_ABOVE_DENSITY = 0.15
"""Share of open gates above which the dense formula is faster (docs/results/train_step.md)."""


def gradients(
    sae: SAE,
    x: Tensor,
    sparsity_coefficient: float,
    *,
    auxiliary_loss: bool = True,
    compute_dtype: torch.dtype = torch.float32,
) -> tuple[Objective, Gradients]:
    """The objective and its gradients on ``x [batch, d_in]``: on the support, or densely where many gates are open.

    ``compute_dtype`` bfloat16 screens candidates with the cheap product; the result is exact either way.
    """
    most = int(DENSE_ABOVE_DENSITY * len(x) * sae.cfg.d_sae)
    found = _gradients_on_support(sae, x, sparsity_coefficient, auxiliary_loss, compute_dtype, most)
    return found or dense_gradients(sae, x, sparsity_coefficient, auxiliary_loss=auxiliary_loss)


def sparse_gradients(
    sae: SAE,
    x: Tensor,
    sparsity_coefficient: float,
    *,
    auxiliary_loss: bool = True,
    compute_dtype: torch.dtype = torch.float32,
) -> tuple[Objective, Gradients]:
    """As `gradients`, on the support whatever the density. Raises ValueError when the sparse kernels cannot count it."""
    found = _gradients_on_support(sae, x, sparsity_coefficient, auxiliary_loss, compute_dtype)
    if found is None:
        raise ValueError("more open gates than 32-bit sparse indices count; lower train.batch_size")
    return found


class _Transpose(NamedTuple):
    """The support latent by latent."""

    order: Tensor
    """``[n]``: place in the support of each entry."""
    rows: Tensor
    starts: Tensor

    def weighted_sum(self, values: Tensor, weights: Tensor) -> Tensor:
        """``[d_sae, d_in]``: for each latent, the sum over its open gates of weight * values[row]."""
        return _weighted_sums(values, self.rows, self.starts, weights.index_select(0, self.order))


def _transpose(support: Support, d_sae: int) -> _Transpose:
    batch = len(support.row_starts) - 1
    latents, order = support.latents.sort(stable=True)
    every_row = torch.arange(batch, device=latents.device, dtype=torch.int32)
    rows = torch.repeat_interleave(every_row, support.row_starts.diff())
    return _Transpose(order, rows.index_select(0, order), starts(latents, d_sae))


def _weighted_sums(values: Tensor, indices: Tensor, group_starts: Tensor, weights: Tensor) -> Tensor:
    """``[groups, d_in]``: for each group of ``indices``, the sum of weight * values[index]."""
    return embedding_bag(
        indices, values, group_starts, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


@torch.no_grad()
def _gradients_on_support(
    sae: SAE,
    x: Tensor,
    sparsity_coefficient: float,
    auxiliary_loss: bool,
    compute_dtype: torch.dtype,
    most: int = MAX_ENTRIES,
) -> tuple[Objective, Gradients] | None:
    """None when more than ``most`` gates are open."""
    centred = x - sae.b_dec
    support = find_support(sae, centred, compute_dtype, most)
    if support is None:
        return None
    batch, d_sae = len(x), sae.cfg.d_sae
    vectors = _VectorIndex(sae, support)
    size = support.z * vectors.sign
    gain = vectors.take(sae.log_gain).exp()
    p = size - vectors.take(sae.threshold)
    magnitude = gain * size + vectors.take(sae.bias)
    is_on = magnitude > 0
    f = magnitude.clamp_min(0) * vectors.sign

    residual = _weighted_sums(sae.W_dec, support.latents, support.row_starts, f).sub_(centred)
    products = sampled_products(residual, sae.W_dec, support.row_starts, support.latents)
    dmagnitude = products * is_on * vectors.sign * (2 / batch)
    dp = torch.full_like(p, sparsity_coefficient / batch)
    auxiliary = residual.new_zeros(())
    if auxiliary_loss:
        soft = _weighted_sums(sae.W_dec, support.latents, support.row_starts, p * vectors.sign).sub_(centred)
        products = sampled_products(soft, sae.W_dec, support.row_starts, support.latents)
        dp += products * vectors.sign * (2 / batch)
        auxiliary = mean_squared_norm(soft)
    dsize = gain * dmagnitude
    dz = (dsize + dp) * vectors.sign

    by_latent = _transpose(support, d_sae)
    dz_by_latent = torch.zeros(d_sae, dtype=dz.dtype, device=dz.device).index_add_(0, support.latents, dz)
    gradient = {
        "W_dec": by_latent.weighted_sum(residual, (2 / batch) * f),
        "W_enc": by_latent.weighted_sum(centred, dz).T,
        "b_dec": (2 / batch) * residual.sum(dim=0) - sae.W_enc @ dz_by_latent,
        "threshold": -vectors.total(dp, sae.threshold),
        "log_gain": vectors.total(dsize * size, sae.log_gain),
        "bias": vectors.total(dmagnitude, sae.bias),
    }
    reconstruction = mean_squared_norm(residual)
    sparsity = sparsity_coefficient * p.sum() / batch
    fired = torch.zeros(d_sae, dtype=torch.bool, device=x.device)
    fired[support.latents[is_on]] = True
    loss = reconstruction + sparsity + auxiliary
    l0 = is_on.sum().to(x.dtype) / batch
    return Objective(loss, reconstruction, sparsity, auxiliary, l0, fired), gradient


class _VectorIndex:
    """Which entry of a ``[1 or 2, d_sae]`` vector each open gate uses, and sums back into it."""

    def __init__(self, sae: SAE, support: Support) -> None:
        self._one_row = self._two_rows = support.latents
        self.sign: Tensor | float = 1.0
        if sae.cfg.two_sided:
            self.sign = support.z.sign()
            self._two_rows = torch.where(support.z < 0, support.latents + sae.cfg.d_sae, support.latents)

    def take(self, vector: Tensor) -> Tensor:
        return vector.flatten().index_select(0, self._index(vector))

    def total(self, values: Tensor, vector: Tensor) -> Tensor:
        return torch.zeros_like(vector).flatten().index_add_(0, self._index(vector), values).view_as(vector)

    def _index(self, vector: Tensor) -> Tensor:
        return self._one_row if len(vector) == 1 else self._two_rows
