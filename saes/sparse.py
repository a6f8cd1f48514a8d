"""The exact gradients of the objective on its support (method section 6).

p, q and f of a latent share one support S = {p+ > 0 or p- > 0}, and the Heaviside gate has zero gradient almost
everywhere, so beyond the encoder product every value and every gradient lives on the |S| = batch * L0 entries of S.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from saes.objective import Gradients, Objective, dense_gradients
from saes.sae import SAE
from saes.support import Support, find_support, sampled_products

DENSE_ABOVE_DENSITY = 0.04
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
    with torch.no_grad():
        centred = x - sae.b_dec
        most = int(DENSE_ABOVE_DENSITY * len(x) * sae.cfg.d_sae)
        support = find_support(sae, centred, compute_dtype, most)
        if support is not None:
            return _on_support(sae, x, centred, support, sparsity_coefficient, auxiliary_loss=auxiliary_loss)
    return dense_gradients(sae, x, sparsity_coefficient, auxiliary_loss=auxiliary_loss)


def sparse_gradients(
    sae: SAE,
    x: Tensor,
    sparsity_coefficient: float,
    *,
    auxiliary_loss: bool = True,
    compute_dtype: torch.dtype = torch.float32,
) -> tuple[Objective, Gradients]:
    """As `gradients`, on the support whatever the density. Raises ValueError when the sparse kernels cannot count it."""
    with torch.no_grad():
        centred = x - sae.b_dec
        support = find_support(sae, centred, compute_dtype)
        if support is None:
            raise ValueError("more open gates than 32-bit sparse indices count; lower train.batch_size")
        return _on_support(sae, x, centred, support, sparsity_coefficient, auxiliary_loss=auxiliary_loss)


class _Layouts(NamedTuple):
    """The support by latent (its own order) and by row (its transpose)."""

    rows: Tensor
    latent_starts: Tensor
    to_rows: Tensor
    """``[n]``: position by latent of each entry by row."""
    latents_by_row: Tensor
    row_starts: Tensor

    def sum_by_latent(self, values: Tensor, weights: Tensor) -> Tensor:
        """``[d_sae, d_in]``: for each latent, the sum over its open gates of weight * values[row]."""
        return _weighted_sums(values, self.rows, self.latent_starts, weights)

    def sum_by_row(self, values: Tensor, weights: Tensor) -> Tensor:
        """``[batch, d_in]``: for each row, the sum over its open gates of weight * values[latent]."""
        return _weighted_sums(values, self.latents_by_row, self.row_starts, weights[self.to_rows])


def _layouts(support: Support, batch: int, d_sae: int) -> _Layouts:
    rows, to_rows = support.rows.sort(stable=True)
    device = rows.device
    return _Layouts(
        support.rows,
        torch.searchsorted(support.latents, torch.arange(d_sae + 1, device=device)),
        to_rows,
        support.latents[to_rows],
        torch.searchsorted(rows, torch.arange(batch + 1, device=device)),
    )


def _weighted_sums(values: Tensor, indices: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    return embedding_bag(indices, values, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)


def _on_support(
    sae: SAE, x: Tensor, centred: Tensor, support: Support, sparsity_coefficient: float, *, auxiliary_loss: bool
) -> tuple[Objective, Gradients]:
    batch, d_sae = len(x), sae.cfg.d_sae
    layouts = _layouts(support, batch, d_sae)
    vectors = _VectorIndex(sae, support)
    size = support.z * vectors.sign
    gain = vectors.take(sae.log_gain).exp()
    p = size - vectors.take(sae.threshold)
    magnitude = gain * size + vectors.take(sae.bias)
    is_on = magnitude > 0
    f, q = vectors.sign * magnitude.clamp_min(0), vectors.sign * p

    residual = layouts.sum_by_row(sae.W_dec, f) - centred
    error = residual * (2 / batch)
    dmagnitude = vectors.sign * is_on * sampled_products(sae.W_dec, error, support.latents, support.rows)
    dp = torch.full_like(p, sparsity_coefficient / batch)
    auxiliary = residual.new_zeros(())
    if auxiliary_loss:
        auxiliary_residual = layouts.sum_by_row(sae.W_dec, q) - centred
        products = sampled_products(sae.W_dec, auxiliary_residual, support.latents, support.rows)
        dp += (2 / batch) * vectors.sign * products
        auxiliary = _mean_squared_norm(auxiliary_residual)
    dsize = gain * dmagnitude
    dz = vectors.sign * (dsize + dp)
    dz_by_latent = torch.zeros(d_sae, dtype=dz.dtype, device=dz.device).index_add_(0, support.latents, dz)

    gradient = {
        "W_dec": layouts.sum_by_latent(error, f),
        "W_enc": layouts.sum_by_latent(centred, dz).T,
        "b_dec": error.sum(dim=0) - sae.W_enc @ dz_by_latent,
        "threshold": -vectors.total(dp, sae.threshold),
        "log_gain": vectors.total(dsize * size, sae.log_gain),
        "bias": vectors.total(dmagnitude, sae.bias),
    }
    reconstruction = _mean_squared_norm(residual)
    sparsity = sparsity_coefficient * p.sum() / batch
    fired = torch.zeros(d_sae, dtype=torch.bool, device=x.device)
    fired[support.latents[is_on]] = True
    loss = reconstruction + sparsity + auxiliary
    l0 = is_on.sum().to(x.dtype) / batch
    return Objective(loss, reconstruction, sparsity, auxiliary, l0, fired), gradient


class _VectorIndex:
    """Which entry of a ``[1 or 2, d_sae]`` vector each open gate uses, and sums back into it."""

    def __init__(self, sae: SAE, support: Support) -> None:
        is_negative = support.z < 0 if sae.cfg.two_sided else torch.zeros_like(support.z, dtype=torch.bool)
        self.sign = torch.where(is_negative, -1.0, 1.0).to(support.z.dtype)
        self._one_row = support.latents
        self._two_rows = support.latents + is_negative * sae.cfg.d_sae

    def take(self, vector: Tensor) -> Tensor:
        return vector.flatten()[self._index(vector)]

    def total(self, values: Tensor, vector: Tensor) -> Tensor:
        return torch.zeros_like(vector).flatten().index_add_(0, self._index(vector), values).view_as(vector)

    def _index(self, vector: Tensor) -> Tensor:
        return self._one_row if len(vector) == 1 else self._two_rows


def _mean_squared_norm(residual: Tensor) -> Tensor:
    return residual.flatten().dot(residual.flatten()) / len(residual)
