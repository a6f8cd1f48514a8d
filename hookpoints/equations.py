"""Which of many recorded tensors add up to a change of the stream: found by least squares, proved bit by bit."""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import combinations, permutations
from typing import NamedTuple

import torch
from torch import Tensor

_LEAST_CHANGE = 0.1
"""In roundings of the stream: a smaller root mean square cannot be told from nothing."""
_SAME = 0.99
"""Share of the elements that a sum must give to the last bit, of those that anything was added to."""
_N_TRIED = 8
_RIDGE = 1e-12
_FACTOR_TOLERANCE = 0.1


class Sum(NamedTuple):
    """``change = sum_i factors[i] * tensors[indices[i]]``."""

    indices: tuple[int, ...]
    factors: tuple[float, ...]
    error: float
    """Norm of what is left over that of the change."""


def find_sum(
    change: Tensor,
    tensors: Tensor,
    gram: Tensor,
    allowed: Sequence[int],
    n_terms: int,
    rounding: float,
    multipliers: Sequence[float],
    holds: Callable[[tuple[int, ...], tuple[float, ...]], bool],
) -> Sum | None:
    """The sum of ``n_terms`` of the allowed tensors that is the change, or None.

    Args:
        change: ``[n]`` float64, in units of the stream.
        tensors: ``[n_tensors, n]`` float64, in the same units.
        gram: ``[n_tensors, n_tensors]``, their inner products.
        allowed: indices into tensors.
        n_terms: how many are added up.
        rounding: of the stream's dtype.
        multipliers: constants that a factor may be besides 1, with either sign; one near them is the nearest. No other is
            taken: it might depend on the tokens, and several free factors can add up by accident.
        holds: proves the sum of some tensors with some factors.
    """
    least = _LEAST_CHANGE * rounding * change.numel() ** 0.5
    candidates = [i for i in allowed if float(gram[i, i]) > 0]
    if float(change.norm()) <= least or len(candidates) < n_terms:
        return None
    groups = torch.tensor(list(combinations(candidates, n_terms)))
    along = tensors @ change
    blocks = gram[groups[:, :, None], groups[:, None, :]]
    squares = blocks.diagonal(dim1=1, dim2=2)
    factors = torch.linalg.solve(blocks + torch.diag_embed(_RIDGE * squares), along[groups][..., None])[..., 0]
    adds_little = (factors.abs() * squares.sqrt() <= least).any(dim=1)
    left = (change.square().sum() - (factors * along[groups]).sum(dim=1)).masked_fill(adds_little, torch.inf)
    for best in left.argsort()[:_N_TRIED].tolist():
        chosen = tuple[int, ...](groups[best].tolist())
        exact = [_exact(factor, multipliers) for factor in factors[best].tolist()]
        known = tuple(factor for factor in exact if factor is not None)
        if len(known) == len(chosen) and holds(chosen, known):
            rest = change - torch.tensor(known, dtype=torch.float64) @ tensors[list(chosen)]
            return Sum(chosen, known, float(rest.norm() / change.norm()))
    return None


def adds_up(start: Tensor, end: Tensor, terms: Sequence[Tensor], factors: Sequence[float]) -> bool:
    """Whether start plus the terms times their factors is end, in the model's own arithmetic and in some order.

    All ``[n_tokens, d_model]``, as the model computed them.
    """
    for total in _totals(start, terms, factors):
        is_concerned = (end != start) | (total.to(end.dtype) != start)
        if float((total.to(end.dtype) == end)[is_concerned].float().mean()) >= _SAME:
            return True
    return False


def _totals(start: Tensor, terms: Sequence[Tensor], factors: Sequence[float]) -> Iterator[Tensor]:
    scaled = [term if factor == 1 else term * factor for term, factor in zip(terms, factors, strict=True)]
    for order in permutations(scaled):
        yield start + reduce(torch.add, order)
    for order in permutations([start, *scaled]):
        yield reduce(torch.add, order)
    if set(factors) != {1.0} and len(set(factors)) == 1:
        for order in permutations(terms):
            yield start + reduce(torch.add, order) * factors[0]
            yield torch.add(start, reduce(torch.add, order), alpha=factors[0])


def _exact(factor: float, multipliers: Sequence[float]) -> float | None:
    """The constant that a fitted factor stands for; None where it is near none."""
    signed = [sign * known for known in (1.0, *multipliers) for sign in (1, -1)]
    nearest = min(signed, key=lambda known: abs(factor / known - 1))
    return nearest if abs(factor / nearest - 1) <= _FACTOR_TOLERANCE else None
