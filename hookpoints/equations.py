"""Which of many recorded tensors add up to a change of the stream: sparse least squares, checked to rounding."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

_MOST_LEFT = 1.0
"""A sum holds when what is left over has a root mean square below this many roundings of the stream ..."""
_LARGEST_SHARE = 0.5
"""... and below this share of what is added: else it says nothing of it. (Another part's output leaves nearly all.)"""
_LEAST_CHANGE = 0.5
"""In roundings of the stream, whose own root mean square is about 0.2: less cannot be told from nothing."""
_N_TRIED = 8
_RIDGE = 1e-12
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
        multipliers: constants that a factor may be besides 1, with either sign; a factor near one of them is exactly that. No
            other is taken: it might depend on the tokens, and several free factors can add up by accident.
    """
    least = _LEAST_CHANGE * rounding * change.numel() ** 0.5
    candidates = [i for i in allowed if float(tensors[i].norm()) > 0]
    if float(change.norm()) <= least or len(candidates) < n_terms:
        return None
    groups = torch.tensor(list(combinations(candidates, n_terms)))
    gram, along = tensors @ tensors.T, tensors @ change
    blocks = gram[groups[:, :, None], groups[:, None, :]]
    squares = blocks.diagonal(dim1=1, dim2=2)
    factors = torch.linalg.solve(blocks + torch.diag_embed(_RIDGE * squares), along[groups][..., None])[..., 0]
    adds_little = (factors.abs() * squares.sqrt() <= least).any(dim=1)
    left = (change.square().sum() - (factors * along[groups]).sum(dim=1)).masked_fill(adds_little, torch.inf)
    for best in left.argsort()[:_N_TRIED].tolist():
        exact = [_exact(factor, rounding, multipliers) for factor in factors[best].tolist()]
        found = _checked(change, tensors, tuple(groups[best].tolist()), exact, rounding)
        if found is not None:
            return found
    return None


def _checked(
    change: Tensor, tensors: Tensor, chosen: tuple[int, ...], factors: Sequence[float | None], rounding: float
) -> Sum | None:
    known = tuple(factor for factor in factors if factor is not None)
    if len(known) < len(chosen):
        return None
    rest = change - torch.tensor(known, dtype=torch.float64) @ tensors[list(chosen)]
    error = float(rest.norm() / change.norm())
    is_rounding = float(rest.square().mean().sqrt()) <= _MOST_LEFT * rounding
    return Sum(chosen, known, error) if is_rounding and error <= _LARGEST_SHARE else None


def _exact(factor: float, rounding: float, multipliers: Sequence[float]) -> float | None:
    """The constant that a fitted factor stands for; None where it is near none."""
    tolerance = max(_FACTOR_TOLERANCE, rounding)
    signed = (sign * known for known in (1.0, *multipliers) for sign in (1, -1))
    return next((known for known in signed if abs(factor - known) <= tolerance * abs(known)), None)
