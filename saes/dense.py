"""What objectives written for autograd share: every faster path is held against them."""

from collections.abc import Callable

import torch
from torch import Tensor

from saes.architectures.base import Gradients, Objective, Parameters


def autograd_gradients(sae: Parameters, objective: Callable[[], Objective]) -> tuple[Objective, Gradients]:
    """An objective that is differentiable in every parameter of ``sae``, and its gradients."""
    with torch.enable_grad():
        found = objective()
        names, parameters = zip(*sae.named_parameters(), strict=True)
        gradients = torch.autograd.grad(found.loss, parameters)
    return Objective(*(value.detach() for value in found)), dict(zip(names, gradients, strict=True))


def mean_squared_norm(residual: Tensor) -> Tensor:
    """Mean over the rows of ``residual [batch, d_in]`` of ||row||^2."""
    flat = residual.flatten()
    return flat.dot(flat) / len(residual)
