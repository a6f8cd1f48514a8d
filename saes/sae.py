"""The sparse autoencoder: Gated and sign-aware gated in one module.

A Gated SAE is the one-sided member of the family: its gate pi = z + b_gate opens where z exceeds theta = -b_gate, and
p = relu(pi), f = 1[pi > 0] relu(exp(r_mag) z + b_mag) are the positive side of the sign-aware formulas. So one
module, one objective and one set of gradients serve both; only the sign constraint on theta differs.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from saes.activation import Sides, bi_jump_relu, jump_relu

Architecture = Literal["gated", "sa_gated"]
Tying = Literal["none", "magnitude", "full"]


@dataclass(frozen=True)
class SAEConfig:
    """Shape and family of one SAE."""

    architecture: Architecture
    d_in: int
    d_sae: int
    tying: Tying = "full"
    """`sa_gated`: which vectors the two sides share. magnitude: r and b; full: theta as well."""
    one_sided: bool = False
    """`sa_gated`: the ablation without a negative side."""

    @property
    def two_sided(self) -> bool:
        """Whether latents have a negative side."""
        return self.architecture == "sa_gated" and not self.one_sided

    @property
    def n_threshold_rows(self) -> int:
        """Threshold vectors: 2 when the sides have their own."""
        return 2 if self.two_sided and self.tying != "full" else 1

    @property
    def n_magnitude_rows(self) -> int:
        """Gain and bias vectors: 2 when the sides have their own."""
        return 2 if self.two_sided and self.tying == "none" else 1

    @property
    def n_params(self) -> int:
        """2 d_in d_sae + d_in + vectors (method section 4)."""
        vectors = self.n_threshold_rows + 2 * self.n_magnitude_rows
        return 2 * self.d_in * self.d_sae + self.d_in + vectors * self.d_sae


def sae_config(values: dict[str, Any]) -> SAEConfig:
    """Build a checked `SAEConfig`. Raises ValueError naming the field, what was given and what is allowed."""
    allowed = {"architecture": get_args(Architecture), "tying": get_args(Tying)}
    config = SAEConfig(**values)
    for name, choices in allowed.items():
        if getattr(config, name) not in choices:
            raise ValueError(f"{name} is {getattr(config, name)!r}; allowed are {', '.join(choices)}")
    for name in ("d_in", "d_sae"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least 1")
    return config


class SAE(nn.Module):
    """x [..., d_in] -> signed latents f [..., d_sae] -> reconstruction [..., d_in].

    Parameters are named and shaped as the field writes them: ``W_enc [d_in, d_sae]``, ``W_dec [d_sae, d_in]`` with unit
    rows, ``b_dec [d_in]``; ``threshold``, ``log_gain`` and ``bias`` are ``[1 or 2, d_sae]`` (see `Sides`). In memory
    ``W_enc`` lies latent by latent, like ``W_dec``, because its gradient is made latent by latent.
    """

    def __init__(self, cfg: SAEConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        directions = torch.randn(cfg.d_sae, cfg.d_in, generator=generator)
        directions /= directions.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(directions)
        self.W_enc = nn.Parameter(directions.clone().T)
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_in))
        self.threshold = nn.Parameter(torch.zeros(cfg.n_threshold_rows, cfg.d_sae))
        self.log_gain = nn.Parameter(torch.zeros(cfg.n_magnitude_rows, cfg.d_sae))
        self.bias = nn.Parameter(torch.zeros(cfg.n_magnitude_rows, cfg.d_sae))

    @property
    def sides(self) -> Sides:
        """The per-latent vectors."""
        return Sides(self.threshold, self.log_gain, self.bias)

    def pre_activations(self, x: Tensor) -> Tensor:
        """z = W_enc (x - b_dec), ``[..., d_sae]``: the one dense product, shared by gate and magnitude."""
        return (x - self.b_dec) @ self.W_enc

    def activate(self, z: Tensor) -> Tensor:
        """Latents f from the encoder product ``z [..., d_sae]``."""
        if self.cfg.two_sided:
            return bi_jump_relu(z, *self.sides)
        return jump_relu(z, self.threshold[0], self.log_gain[0], self.bias[0])

    def encode(self, x: Tensor) -> Tensor:
        """Latents ``[..., d_sae]``; signed for a two-sided SAE, non-negative otherwise. Raises ValueError on another d_in."""
        self._check_width(x)
        return self.activate(self.pre_activations(x))

    def decode(self, latents: Tensor) -> Tensor:
        """f W_dec + b_dec, ``[..., d_in]``."""
        return latents @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction of ``x [..., d_in]``."""
        return self.decode(self.encode(x))

    def one_sided_view(self) -> "JumpReLUView":
        """The lossless JumpReLU form with non-negative latents: width 2 d_sae when two-sided, d_sae otherwise.

        Latent i is the positive side, latent i + d_sae the negative side of signed latent i.
        """
        signs = (1.0, -1.0) if self.cfg.two_sided else (1.0,)
        sides = [(sign, *(vector[-1] if sign < 0 else vector[0] for vector in self.sides)) for sign in signs]
        return JumpReLUView(
            W_enc=torch.cat([sign * self.W_enc * log_gain.exp() for sign, _, log_gain, _ in sides], dim=1).detach(),
            b_enc=torch.cat([bias for *_, bias in sides]).detach(),
            threshold=torch.cat([(r.exp() * theta + b).clamp_min(0) for _, theta, r, b in sides]).detach(),
            W_dec=torch.cat([sign * self.W_dec for sign, *_ in sides]).detach(),
            b_dec=self.b_dec.detach().clone(),
        )

    def _check_width(self, x: Tensor) -> None:
        if x.shape[-1] != self.cfg.d_in:
            raise ValueError(
                f"this SAE reads activations of width d_in {self.cfg.d_in}, given are rows of width {x.shape[-1]} "
                f"(shape {tuple(x.shape)}); use an SAE trained on that model and hookpoint"
            )


class JumpReLUView(NamedTuple):
    """A JumpReLU SAE: latents u 1[u > threshold] with u = (x - b_dec) W_enc + b_enc; tensors as the field shapes them."""

    W_enc: Tensor
    b_enc: Tensor
    threshold: Tensor
    """max(exp(r) theta + b, 0): a magnitude that relu cuts off at 0 never jumps below it."""
    W_dec: Tensor
    b_dec: Tensor

    def encode(self, x: Tensor) -> Tensor:
        """Non-negative latents ``[..., width]``."""
        u = (x - self.b_dec) @ self.W_enc + self.b_enc
        return torch.where(u > self.threshold, u, 0.0)

    def decode(self, latents: Tensor) -> Tensor:
        """Reconstruction ``[..., d_in]``."""
        return latents @ self.W_dec + self.b_dec


@torch.no_grad()
def folded(sae: SAE, scale: float) -> SAE:
    """The SAE on raw activations that equals ``sae`` on ``scale`` times them.

    The family is homogeneous: dividing b_dec, theta and b by the scale divides every latent and the reconstruction by
    it, so both weight matrices (and the decoder's unit norm) stay as they are.
    """
    raw = SAE(sae.cfg)
    raw.load_state_dict(sae.state_dict())
    for parameter in (raw.b_dec, raw.threshold, raw.bias):
        parameter /= scale
    return raw


def config_dict(cfg: SAEConfig) -> dict[str, Any]:
    """JSON-ready form of the configuration."""
    return asdict(cfg)
