"""The exact gradients of the objective on its support (method section 6).

p, q and f of a latent share one support S = {p+ > 0 or p- > 0}, and the Heaviside gate has zero gradient almost
everywhere, so beyond the encoder product every value and every gradient lives on the |S| = batch * L0 entries of S.
"""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from saes.objective import Gradients, Objective, dense_gradients
from saes.sae import SAE

DENSE_ABOVE_DENSITY = 0.04
"""Share of open gates above which the dense formula is faster (method section 6: between 3 and 6 %)."""


class Support(NamedTuple):
    """The open gates of a batch, row by row, n of them."""

    rows: Tensor
    """``[n]`` int64: row in the batch, ascending."""
    latents: Tensor
    """``[n]`` int64: latent."""
    row_starts: Tensor
    """``[batch + 1]`` int64: where each row begins."""
    z: Tensor
    """``[n]``: encoder product."""


def gradients(
    sae: SAE, x: Tensor, sparsity_coefficient: float, *, auxiliary_loss: bool = True
) -> tuple[Objective, Gradients]:
    """The objective and its gradients on ``x [batch, d_in]``: on the support, or densely where many gates are open."""
    with torch.no_grad():
        support = find_support(sae, x)
        if len(support.z) <= DENSE_ABOVE_DENSITY * len(x) * sae.cfg.d_sae:
            return _on_support(sae, x, support, sparsity_coefficient, auxiliary_loss=auxiliary_loss)
    return dense_gradients(sae, x, sparsity_coefficient, auxiliary_loss=auxiliary_loss)


def sparse_gradients(
    sae: SAE, x: Tensor, sparsity_coefficient: float, *, auxiliary_loss: bool = True
) -> tuple[Objective, Gradients]:
    """As `gradients`, on the support whatever the density."""
    with torch.no_grad():
        return _on_support(sae, x, find_support(sae, x), sparsity_coefficient, auxiliary_loss=auxiliary_loss)


def open_gates(z: Tensor, threshold: Tensor, *, two_sided: bool) -> Tensor:
    """``[batch, d_sae]`` bool: z > theta+ or -z > theta-."""
    if not two_sided:
        return z > threshold[0]
    if len(threshold) == 1:
        return z.abs() > threshold[0]
    return (z > threshold[0]) | (z < -threshold[1])


def find_support(sae: SAE, x: Tensor) -> Support:
    """The one dense product of a step, and the gates that it opens."""
    z = sae.pre_activations(x)
    is_open = open_gates(z, sae.threshold, two_sided=sae.cfg.two_sided)
    entries = is_open.flatten().nonzero()[:, 0]
    rows = entries // sae.cfg.d_sae
    row_starts = torch.searchsorted(rows, torch.arange(len(x) + 1, device=x.device))
    return Support(rows, entries - rows * sae.cfg.d_sae, row_starts, z.flatten()[entries])


def _on_support(
    sae: SAE, x: Tensor, support: Support, sparsity_coefficient: float, *, auxiliary_loss: bool
) -> tuple[Objective, Gradients]:
    batch = len(x)
    vectors = _VectorIndex(sae, support)
    sign, z = vectors.sign, support.z
    theta, gain, bias = vectors.take(sae.threshold), vectors.take(sae.log_gain).exp(), vectors.take(sae.bias)
    p = sign * z - theta
    magnitude = gain * (sign * z) + bias
    is_on = magnitude > 0
    f, q = sign * magnitude.clamp_min(0), sign * p

    residual = _decode(sae, f, support) - x
    error = residual * (2 / batch)
    df = _sampled_products(error, sae.W_dec, support)
    dmagnitude = sign * df * is_on
    dp = torch.full_like(p, sparsity_coefficient / batch)
    auxiliary = residual.new_zeros(())
    if auxiliary_loss:
        auxiliary_residual = _decode(sae, q, support) - x
        dp += sign * _sampled_products(auxiliary_residual * (2 / batch), sae.W_dec, support)
        auxiliary = auxiliary_residual.pow(2).sum() / batch
    dz = sign * (gain * dmagnitude + dp)

    by_latent = _by_latent(support, sae.cfg.d_sae)
    centred = x - sae.b_dec
    gradient = {
        "W_dec": by_latent.weighted_sum(error, f),
        "W_enc": by_latent.weighted_sum(centred, dz).T,
        "b_dec": error.sum(dim=0) - sae.W_enc @ by_latent.total(dz),
        "threshold": -vectors.total(dp, sae.threshold),
        "log_gain": vectors.total(dmagnitude * gain * (sign * z), sae.log_gain),
        "bias": vectors.total(dmagnitude, sae.bias),
    }
    reconstruction = residual.pow(2).sum() / batch
    sparsity = sparsity_coefficient * p.sum() / batch
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool, device=x.device)
    fired[support.latents[is_on]] = True
    objective = Objective(
        reconstruction + sparsity + auxiliary,
        reconstruction,
        sparsity,
        auxiliary,
        is_on.sum().to(x.dtype) / batch,
        fired,
    )
    return objective, gradient


class _VectorIndex:
    """Which entry of a ``[1 or 2, d_sae]`` vector each support entry uses, and sums back into it."""

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


class _ByLatent(NamedTuple):
    """The support in latent order: the layout of its transpose."""

    order: Tensor
    rows: Tensor
    latent_starts: Tensor

    def weighted_sum(self, values: Tensor, weights: Tensor) -> Tensor:
        """``[d_sae, d_in]``: for each latent, the sum over its open gates of weight * values[row]."""
        return embedding_bag(
            self.rows,
            values,
            self.latent_starts,
            mode="sum",
            per_sample_weights=weights[self.order],
            include_last_offset=True,
        )

    def total(self, weights: Tensor) -> Tensor:
        """``[d_sae]``: sum of the weights of each latent's open gates."""
        n_latents = len(self.latent_starts) - 1
        counts = self.latent_starts.diff()
        latents = torch.repeat_interleave(torch.arange(n_latents, device=weights.device), counts)
        return weights.new_zeros(n_latents).index_add_(0, latents, weights[self.order])


def _by_latent(support: Support, d_sae: int) -> _ByLatent:
    latents, order = support.latents.sort(stable=True)
    latent_starts = torch.searchsorted(latents, torch.arange(d_sae + 1, device=latents.device))
    return _ByLatent(order, support.rows[order], latent_starts)


def _decode(sae: SAE, weights: Tensor, support: Support) -> Tensor:
    """weights W_dec + b_dec, ``[batch, d_in]``."""
    return sae.b_dec + embedding_bag(
        support.latents,
        sae.W_dec,
        support.row_starts,
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )


def _sampled_products(left: Tensor, right: Tensor, support: Support) -> Tensor:
    """``[n]``: <left[row], right[latent]> for every open gate."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        pattern = torch.sparse_csr_tensor(
            support.row_starts,
            support.latents,
            torch.zeros_like(support.z),
            size=(len(left), len(right)),
            check_invariants=False,
        )
    return torch.sparse.sampled_addmm(pattern, left, right.T, beta=0.0).values()
