"""The sparse autoencoder: parameters of any architecture, and what every user of a trained one calls."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from saes.architectures.base import Architecture
from saes.views import JumpReLUView


class SAE(nn.Module):
    """x [..., d_in] -> latents f [..., d_sae] -> reconstruction [..., d_in].

    Parameters are named and shaped as the field writes them: ``W_enc [d_in, d_sae]``, ``W_dec [d_sae, d_in]`` with unit
    rows at the start, ``b_dec [d_in]``; those of `Architecture.vectors` beside them. In memory ``W_enc`` lies latent by
    latent, like ``W_dec``, because its gradient is made latent by latent.
    """

    def __init__(self, cfg: Architecture, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        directions = torch.randn(cfg.d_sae, cfg.d_in, generator=generator)
        directions /= directions.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(directions)
        self.W_enc = nn.Parameter(directions.clone().T)
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_in))
        for name, shape in cfg.vectors.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Tensor:
            """The vectors of the architecture."""
            ...

    def pre_activations(self, x: Tensor) -> Tensor:
        """z = W_enc (x - b_dec), ``[..., d_sae]``: the one dense product."""
        return (x - self.b_dec) @ self.W_enc

    def encode(self, x: Tensor) -> Tensor:
        """Latents ``[..., d_sae]``; signed where `Architecture.is_signed`. Raises ValueError on another d_in."""
        self._check_width(x)
        return self.cfg.encode(self, x)

    def decode(self, latents: Tensor) -> Tensor:
        """f W_dec + b_dec, ``[..., d_in]``."""
        return latents @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction of ``x [..., d_in]``."""
        return self.decode(self.encode(x))

    def one_sided_view(self) -> JumpReLUView:
        """The lossless form with non-negative latents, for tools that expect them. Raises ValueError where there is none."""
        return self.cfg.one_sided_view(self)

    def normalise_decoder(self) -> None:
        """Unit rows of W_dec, in place; a row of zeros stays."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(torch.finfo(self.W_dec.dtype).tiny))

    def _check_width(self, x: Tensor) -> None:
        if x.shape[-1] != self.cfg.d_in:
            raise ValueError(
                f"this SAE reads activations of width d_in {self.cfg.d_in}, given are rows of width {x.shape[-1]} "
                f"(shape {tuple(x.shape)}); use an SAE trained on that model and hookpoint"
            )


@torch.no_grad()
def folded(sae: SAE, scale: float) -> SAE:
    """The SAE on raw activations that equals ``sae`` on ``scale`` times them."""
    raw = SAE(sae.cfg)
    raw.load_state_dict(sae.state_dict())
    raw.cfg.fold(raw, scale)
    return raw
