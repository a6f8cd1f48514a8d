"""The open gates of a batch: the one dense product of a training step, chunk by chunk, and what passes the thresholds.

With ``bfloat16`` the cheap product only proposes: every entry that could pass within a bound on its rounding error becomes
a candidate, z of the candidates is recomputed in the parameters' own precision, and the thresholds decide. The support, and
everything computed on it, is exact either way.
"""

import warnings
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hookpoints.hardware import multiplies_bfloat16
from saes.sae import SAE

ComputeDtype = Literal["auto", "float32", "bfloat16"]

_CHUNK_ENTRIES = {"cpu": 1 << 21, "cuda": 1 << 28}
"""Entries of z alive at a time: on the CPU what a cache holds, on a GPU what keeps it busy."""
_MAX_ENTRIES = 2**31 - 1
"""The sparse kernels count with 32 bits."""
_UNIT_ROUNDOFF = 2.0**-8
"""Of bfloat16: 8 significant bits, rounded to nearest."""


def resolve_compute_dtype(compute_dtype: ComputeDtype, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 where the hardware multiplies it, else float32."""
    if compute_dtype == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    return getattr(torch, compute_dtype)


class Support(NamedTuple):
    """The open gates of a batch, n of them, latent by latent."""

    rows: Tensor
    """``[n]`` int64: row in the batch, ascending within each latent."""
    latents: Tensor
    """``[n]`` int64: latent, ascending."""
    z: Tensor
    """``[n]``: encoder product."""


def find_support(sae: SAE, centred: Tensor, compute_dtype: torch.dtype, most: int = _MAX_ENTRIES) -> Support | None:
    """The open gates on ``centred [batch, d_in]`` = x - b_dec; None as soon as there are more than ``most``."""
    is_screened = compute_dtype == torch.bfloat16 and centred.dtype == torch.float32
    proposed = _Screen(sae, centred) if is_screened else None
    pieces: list[Support] = []
    n_found = 0
    step = max(1, _CHUNK_ENTRIES.get(centred.device.type, 1 << 21) // len(centred))
    for start in range(0, sae.cfg.d_sae, step):
        chunk = slice(start, start + step)
        if proposed is None:
            piece = _open_gates(sae, sae.W_enc.T[chunk] @ centred.T, chunk)
        else:
            piece = proposed.exact(chunk)
        pieces.append(piece)
        n_found += len(piece.z)
        if n_found > min(most, _MAX_ENTRIES):
            return None
    return Support(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))


def is_open(sae: SAE, z: Tensor, latents: slice | Tensor, slack: Tensor | float = 0.0) -> Tensor:
    """Where z > theta+ or -z > theta-, thresholds lowered by ``slack``; ``latents`` is the first dimension of ``z``."""
    column = (slice(None), *([None] * (z.ndim - 1)))
    theta = sae.threshold[:, latents]
    if not sae.cfg.two_sided:
        return z > theta[0][column] - slack
    if len(theta) == 1:
        return z.abs() > theta[0][column] - slack
    return (z > theta[0][column] - slack) | (z < slack - theta[1][column])


def _open_gates(sae: SAE, z: Tensor, chunk: slice) -> Support:
    """Of one chunk ``z [latents, batch]``."""
    entries = is_open(sae, z, chunk).flatten().nonzero()[:, 0]
    latents = entries // z.shape[1]
    return Support(entries - latents * z.shape[1], latents + chunk.start, z.flatten()[entries])


class _Screen:
    """Candidates from the bfloat16 product.

    Rounding both factors and the result moves z by at most (2u + u^2) |x||w| + u |z~|, with u the unit roundoff and the
    sum of products bounded by Cauchy and Schwarz; float32 accumulation adds d_in 2^-24 |x||w|, rounding of the bound itself
    is covered by the last factor.
    """

    def __init__(self, sae: SAE, centred: Tensor) -> None:
        self._sae = sae
        self._centred = centred
        self._x = centred.T.bfloat16()
        self._w = sae.W_enc.T.bfloat16()
        u = _UNIT_ROUNDOFF
        self._relative = (2 * u + u * u + sae.cfg.d_in * 2.0**-24) * (1 + u) * 1.01
        self._x_norm = centred.norm(dim=1)
        self._w_norm = sae.W_enc.norm(dim=0)

    def exact(self, chunk: slice) -> Support:
        z = self._w[chunk] @ self._x
        slack = torch.outer(self._w_norm[chunk] * self._relative, self._x_norm).addcmul_(
            z.abs(), z.new_tensor(_UNIT_ROUNDOFF)
        )
        entries = is_open(self._sae, z, chunk, slack).flatten().nonzero()[:, 0]
        local = entries // z.shape[1]
        rows, latents = entries - local * z.shape[1], local + chunk.start
        exact = sampled_products(self._sae.W_enc.T[chunk], self._centred, local, rows)
        keep = is_open(self._sae, exact, latents)
        return Support(rows[keep], latents[keep], exact[keep])


def sampled_products(left: Tensor, right: Tensor, left_rows: Tensor, right_rows: Tensor) -> Tensor:
    """``[n]``: <left[left_rows], right[right_rows]>, ``left_rows`` ascending and the pairs all different."""
    starts = torch.searchsorted(left_rows, torch.arange(len(left) + 1, device=left.device))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        pattern = torch.sparse_csr_tensor(
            starts, right_rows, left.new_zeros(len(left_rows)), size=(len(left), len(right)), check_invariants=False
        )
    return torch.sparse.sampled_addmm(pattern, left, right.T, beta=0.0).values()
