"""The nonlinearity of a gated SAE, one-sided or two-sided, as a pure function of the encoder product."""

import torch
from torch import Tensor


def bi_jump_relu(z: Tensor, threshold: Tensor, log_gain: Tensor, bias: Tensor) -> Tensor:
    """Signed latents f of a sign-aware gated SAE (docs/method.md, "Gates").

    f = 1[z > theta+] relu(exp(r+) z + b+) - 1[-z > theta-] relu(-exp(r-) z + b-)

    With r = b = 0 this is Bi-Jump-ReLU, BJ(z; t+, t-) = z 1[z > t+] + z 1[z < -t-]. At a jump the latent is 0.

    Args:
        z: ``[..., d_sae]``, the encoder product W_enc (x - b_dec).
        threshold, log_gain, bias: ``[1 or 2, d_sae]``, theta, r and b; row 0 of the positive side, the last of the negative.
    """
    return jump_relu(z, threshold[0], log_gain[0], bias[0]) - jump_relu(-z, threshold[-1], log_gain[-1], bias[-1])


def jump_relu(z: Tensor, threshold: Tensor, log_gain: Tensor, bias: Tensor) -> Tensor:
    """One side: 1[z > theta] relu(exp(r) z + b), all ``[..., d_sae]`` (Gated SAE with theta = -b_gate)."""
    return torch.where(z > threshold, torch.relu(log_gain.exp() * z + bias), 0.0)


def signed_gate(z: Tensor, threshold: Tensor, *, two_sided: bool) -> Tensor:
    """q = p+ - p-, with p+ = relu(z - theta+) and p- = relu(-z - theta-): the soft-thresholded auxiliary path.

    The supports of p+ and p- are disjoint when theta >= 0, so sum(p+ + p-) = sum|q|. One-sided: q = p+ >= 0.
    """
    positive = torch.relu(z - threshold[0])
    return positive - torch.relu(-z - threshold[-1]) if two_sided else positive
