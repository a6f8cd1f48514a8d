"""The open gates of a batch: the one dense product of a training step, chunk by chunk, and what passes the thresholds.

With ``bfloat16`` the cheap product only proposes: every entry that could pass within a bound on its rounding error becomes
a candidate, z of the candidates is recomputed in the parameters' own precision, and the thresholds decide. The support, and
everything computed on it, is exact either way.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from core.devices import multiplies_bfloat16
from saes.config import ComputeDtype
from saes.sparse import sampled_products, starts

_CHUNK_ENTRIES = {"cpu": 1 << 23, "cuda": 1 << 28}
"""Entries of z alive at a time: the product slows below, memory traffic grows above."""
MAX_ENTRIES = 2**31 - 1
"""The sparse kernels count with 32 bits."""
_UNIT_ROUNDOFF = 2.0**-8
"""Of bfloat16: 8 significant bits, rounded to nearest."""
_WORD = 8


def resolve_compute_dtype(compute_dtype: ComputeDtype, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 where the hardware multiplies it, else float32."""
    if compute_dtype == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    return getattr(torch, compute_dtype)


class Gates(NamedTuple):
    """Latents that open where z = W_enc (x - b_dec) exceeds theta, or with two sides where -z does."""

    W_enc: Tensor
    """``[d_in, d_sae]``."""
    threshold: Tensor
    """theta, ``[1 or 2, d_sae]``: of the positive side, then of the negative one; one row serves both."""
    two_sided: bool


class Support(NamedTuple):
    """The open gates of a batch, n of them, row by row."""

    latents: Tensor
    """``[n]`` int32: latent, ascending within each row."""
    row_starts: Tensor
    """``[batch + 1]`` int32: where each row begins."""
    z: Tensor
    """``[n]``: encoder product."""


class _Entries(NamedTuple):
    """Places in ``[latents, batch]``, latent by latent."""

    latents: Tensor
    rows: Tensor
    z: Tensor | None


def find_support(gates: Gates, centred: Tensor, compute_dtype: torch.dtype, most: int | None = None) -> Support | None:
    """The open gates on ``centred [batch, d_in]`` = x - b_dec; None as soon as more than ``most`` are proposed.

    ``most`` is at most, and unless given, what the sparse kernels count.
    """
    most = MAX_ENTRIES if most is None else min(most, MAX_ENTRIES)
    is_screened = compute_dtype == torch.bfloat16 and centred.dtype == torch.float32
    screen = _Screen(gates, centred) if is_screened else None
    pieces: list[_Entries] = []
    n_found = 0
    for chunk in latent_chunks(gates.W_enc.shape[1], centred):
        pieces.append(_open_gates(gates, centred, chunk) if screen is None else screen.candidates(chunk))
        n_found += len(pieces[-1].rows)
        if n_found > most:
            return None
    rows, order = torch.cat([piece.rows for piece in pieces]).sort(stable=True)
    latents = torch.cat([piece.latents for piece in pieces]).index_select(0, order)
    row_starts = starts(rows, len(centred))
    if screen is None:
        z = torch.cat([piece.z for piece in pieces if piece.z is not None])
        return Support(latents, row_starts, z.index_select(0, order))
    z = sampled_products(centred, gates.W_enc.T, row_starts, latents)
    keep = _is_open(gates, z, gates.threshold[:, latents])
    return Support(latents[keep], starts(rows[keep], len(centred)), z[keep])


def latent_chunks(n_latents: int, rows: Tensor) -> Iterator[slice]:
    """Slices of the latents whose products with ``rows [batch, d_in]`` are made at a time."""
    step = max(1, _CHUNK_ENTRIES.get(rows.device.type, 1 << 23) // len(rows))
    for start in range(0, n_latents, step):
        yield slice(start, start + step)


def _is_open(gates: Gates, z: Tensor, theta: Tensor) -> Tensor:
    """Where z > theta+ or -z > theta-, for ``theta [1 or 2, ...]`` whose sides broadcast against ``z``."""
    if not gates.two_sided:
        return z > theta[0]
    if len(theta) == 1:
        return z.abs() > theta[0]
    return (z > theta[0]) | (z < -theta[1])


def _open_gates(gates: Gates, centred: Tensor, chunk: slice) -> _Entries:
    """The open gates of one chunk of latents, with z."""
    z = gates.W_enc.T[chunk] @ centred.T
    is_open = _is_open(gates, z, gates.threshold[:, chunk, None])
    return _entries(is_open, chunk, z)


def _entries(is_chosen: Tensor, chunk: slice, z: Tensor | None) -> _Entries:
    places = true_places(is_chosen)
    latents = places // is_chosen.shape[1]
    rows = (places - latents * is_chosen.shape[1]).int()
    return _Entries((latents + chunk.start).int(), rows, None if z is None else z.take(places))


class _Screen:
    """Candidates from the bfloat16 product.

    With u the unit roundoff, rounding both factors moves z by at most (2u + u^2) |x||w| (Cauchy and Schwarz over the sum of
    products), float32 accumulation by d_in 2^-24 |x||w| more, and rounding the result by u |z|. So an open gate has
    |z~| > (1 - u) (theta - c |x||w|). The bound is itself a product of rank 2, (theta, |w|) (1, -c|x|), rounded to
    bfloat16; the factors below cover that rounding too.
    """

    def __init__(self, gates: Gates, centred: Tensor) -> None:
        u = _UNIT_ROUNDOFF
        relative = (2 * u + u * u + len(gates.W_enc) * 2.0**-24) * (1 + 6 * u)
        self._x = centred.T.bfloat16()
        self._w = gates.W_enc.T.bfloat16()
        x_norm, w_norm = centred.norm(dim=1), gates.W_enc.norm(dim=0)
        self._bound_right = torch.stack([torch.ones_like(x_norm), -relative * x_norm]).bfloat16()
        lowered = torch.where(gates.threshold > 0, 1 - 6 * u, 1 + 6 * u) * gates.threshold
        self._bounds_left = [torch.stack([side, w_norm], dim=1).bfloat16() for side in lowered]
        self._two_sided = gates.two_sided

    def candidates(self, chunk: slice) -> _Entries:
        z = self._w[chunk] @ self._x
        bounds = [left[chunk] @ self._bound_right for left in self._bounds_left]
        if not self._two_sided:
            could_be_open = z > bounds[0]
        elif len(bounds) == 1:
            could_be_open = z.abs_() > bounds[0]
        else:
            could_be_open = (z > bounds[0]) | (z.neg_() > bounds[1])
        return _entries(could_be_open, chunk, None)


def true_places(matrix: Tensor) -> Tensor:
    """Flat indices of the true entries, ascending; reads eight booleans at a time, since few are true."""
    flat = matrix.flatten()
    if len(flat) % _WORD:
        return flat.nonzero()[:, 0]
    words = flat.view(torch.int64).nonzero()[:, 0]
    word, bit = flat.view(-1, _WORD).index_select(0, words).nonzero().T
    return words.index_select(0, word) * _WORD + bit
