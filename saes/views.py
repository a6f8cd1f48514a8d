"""Other forms of a trained SAE, for other tools."""

from typing import NamedTuple

import torch
from torch import Tensor


class JumpReLUView(NamedTuple):
    """A JumpReLU SAE: latents u 1[u > threshold] with u = (x - b_dec) W_enc + b_enc; tensors as the field shapes them."""

    W_enc: Tensor
    b_enc: Tensor
    threshold: Tensor
    """0 or more: a magnitude that relu cuts off at 0 never jumps below it."""
    W_dec: Tensor
    b_dec: Tensor

    def encode(self, x: Tensor) -> Tensor:
        """Non-negative latents ``[..., width]``."""
        u = (x - self.b_dec) @ self.W_enc + self.b_enc
        return torch.where(u > self.threshold, u, 0.0)

    def decode(self, latents: Tensor) -> Tensor:
        """Reconstruction ``[..., d_in]``."""
        return latents @ self.W_dec + self.b_dec
