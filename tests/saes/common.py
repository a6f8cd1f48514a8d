import torch

from saes.architectures import Gated, SignAwareGated
from saes.architectures.base import Architecture
from saes.architectures.gated import Tying
from saes.sae import SAE

VARIANTS: list[tuple[str, Tying, bool]] = [
    ("gated", "full", False),
    ("sa_gated", "full", False),
    ("sa_gated", "magnitude", False),
    ("sa_gated", "none", False),
    ("sa_gated", "full", True),
]


def architecture(variant, d_in: int, d_sae: int) -> Architecture:
    name, tying, one_sided = variant
    return Gated(d_in, d_sae) if name == "gated" else SignAwareGated(d_in, d_sae, tying, one_sided)


def random_sae(
    variant, d_in: int = 12, d_sae: int = 20, seed: int = 0, threshold: float = 1.0, dtype: torch.dtype = torch.float64
) -> SAE:
    """An SAE with every parameter away from its initial value."""
    generator = torch.Generator().manual_seed(seed)
    sae = SAE(architecture(variant, d_in, d_sae), generator).to(dtype)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
            if name == "threshold":
                parameter.copy_((threshold + 0.3 * noise).clamp_min(0))
            elif name != "W_dec":
                parameter.add_(0.3 * noise)
    return sae
