"""The training objective, written densely for autograd: the definition that every faster path is held against.

L = ||x - (f W_dec + b_dec)||^2 + lambda sum_i (p+_i + p-_i) + ||x - (q sg(W_dec) + sg(b_dec))||^2

sums over d_in, means over the batch; sg is the stop-gradient (Gated SAE paper, equation 8; method sections 3 and 4).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from saes.activation import signed_gate
from saes.sae import SAE


class Objective(NamedTuple):
    """One evaluation of the objective; scalars unless said otherwise."""

    loss: Tensor
    """reconstruction + sparsity + auxiliary."""
    reconstruction: Tensor
    """Mean over the batch of ||x - xhat||^2."""
    sparsity: Tensor
    """lambda times the mean over the batch of sum_i p_i."""
    auxiliary: Tensor
    """Mean of ||x - xtilde||^2 with the decoder frozen; 0 when switched off."""
    l0: Tensor
    """Mean number of non-zero latents per row."""
    fired: Tensor
    """``[d_sae]`` bool: latents non-zero on some row."""


Gradients = dict[str, Tensor]
"""Parameter name -> gradient of the loss, shaped as the parameter."""


def dense_objective(sae: SAE, x: Tensor, sparsity_coefficient: float, *, auxiliary_loss: bool = True) -> Objective:
    """The objective on a batch ``x [batch, d_in]``, differentiable in every parameter of ``sae``."""
    z = sae.pre_activations(x)
    f = sae.activate(z)
    q = signed_gate(z, sae.threshold, two_sided=sae.cfg.two_sided)
    reconstruction = mean_squared_norm(x - sae.decode(f))
    sparsity = sparsity_coefficient * q.abs().sum() / len(x)
    if auxiliary_loss:
        auxiliary = mean_squared_norm(x - (q @ sae.W_dec.detach() + sae.b_dec.detach()))
    else:
        auxiliary = torch.zeros_like(reconstruction)
    is_on = f != 0
    return Objective(
        reconstruction + sparsity + auxiliary,
        reconstruction,
        sparsity,
        auxiliary,
        is_on.sum().to(x.dtype) / len(x),
        is_on.any(dim=0),
    )


def dense_gradients(
    sae: SAE, x: Tensor, sparsity_coefficient: float, *, auxiliary_loss: bool = True
) -> tuple[Objective, Gradients]:
    """The objective and its gradient in every parameter, by autograd."""
    with torch.enable_grad():
        objective = dense_objective(sae, x, sparsity_coefficient, auxiliary_loss=auxiliary_loss)
        names, parameters = zip(*sae.named_parameters(), strict=True)
        gradients = torch.autograd.grad(objective.loss, parameters)
    return Objective(*(value.detach() for value in objective)), dict(zip(names, gradients, strict=True))


def mean_squared_norm(residual: Tensor) -> Tensor:
    """Mean over the rows of ``residual [batch, d_in]`` of ||row||^2."""
    flat = residual.flatten()
    return flat.dot(flat) / len(residual)
