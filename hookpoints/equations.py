"""Which of many recorded tensors add up to a change of the stream: sparse least squares, checked to rounding."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

_ROUNDINGS = 4
"""A sum holds when it is off by fewer roundings of the stream than this ..."""
_LARGEST_SHARE = 0.2
"""... and by less than this share of what is added: else it says nothing of it."""

_FLOAT32_ROUNDING = torch.finfo(torch.float32).eps
_FACTOR_TOLERANCE = 1e-4


class Sum(NamedTuple):
    """``change = sum_i factors[i] * tensors[indices[i]]``."""

    indices: tuple[int, ...]
    factors: tuple[float, ...]
    error: float
    """Norm of what is left over that of the change."""


def find_sum(
    change: Tensor, tensors: Tensor, allowed: Sequence[int], n_terms: int, rounding: float, multipliers: Sequence[float]
) -> Sum | None:
    """The sum of ``n_terms`` of the allowed tensors that is the change, or None.

    Args:
        change: ``[n]`` float64, in units in which the stream's root mean square is 1.
        tensors: ``[n_tensors, n]`` float64, in the same units.
        allowed: indices into tensors.
        n_terms: how many are added up.
        rounding: of the stream's dtype.
        multipliers: constants that a factor may be besides 1; a factor near one of them is exactly that. Any other is taken
            only of a single tensor in float32: several tensors with free factors can add up by accident.
    """
    scale = change.norm()
    candidates = [i for i in allowed if float(tensors[i].norm()) > 0]
    if float(scale) <= _ROUNDINGS * rounding * change.numel() ** 0.5 or len(candidates) < n_terms:
        return None
    groups = torch.tensor(list(combinations(candidates, n_terms)))
    gram, along = tensors @ tensors.T, tensors @ change
    blocks = gram[groups[:, :, None], groups[:, None, :]]
    diagonal = blocks.diagonal(dim1=1, dim2=2)
    ridge = torch.diag_embed(diagonal * 1e-12)
    factors = torch.linalg.solve(blocks + ridge, along[groups][..., None])[..., 0]
    left = scale**2 - (factors * along[groups]).sum(dim=1)
    adds_something = (factors.abs() * diagonal.sqrt() > _LARGEST_SHARE * _ROUNDINGS * rounding * scale).all(dim=1)
    best = int(left.masked_fill(~adds_something, torch.inf).argmin())
    chosen = tuple(groups[best].tolist())
    may_be_free = n_terms == 1 and rounding <= _FLOAT32_ROUNDING
    known = [_known(float(factor), rounding, multipliers) for factor in factors[best]]
    exact = [
        fitted if near is None and may_be_free else near
        for near, fitted in zip(known, factors[best].tolist(), strict=True)
    ]
    if None in exact:
        return None
    return _checked(change, tensors, chosen, tuple(factor for factor in exact if factor is not None), rounding)


def _checked(
    change: Tensor, tensors: Tensor, chosen: tuple[int, ...], factors: tuple[float, ...], rounding: float
) -> Sum | None:
    rest = change - torch.tensor(factors, dtype=torch.float64) @ tensors[list(chosen)]
    error = float(rest.norm() / change.norm())
    is_rounding = float(rest.square().mean().sqrt()) <= _ROUNDINGS * rounding
    return Sum(chosen, factors, error) if is_rounding and error <= _LARGEST_SHARE else None


def _known(factor: float, rounding: float, multipliers: Sequence[float]) -> float | None:
    """The constant that a fitted factor stands for; None where it is near none."""
    tolerance = max(_FACTOR_TOLERANCE, rounding)
    return next((known for known in (1.0, *multipliers) if abs(factor - known) <= tolerance * abs(known)), None)
