"""Sums and products over the support of a batch: what every sparse gradient is made of (docs/method.md, "Sparse gradients")."""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


class ByLatent(NamedTuple):
    """A support latent by latent."""

    order: Tensor
    """``[n]``: place in the support of each entry."""
    rows: Tensor
    """``[n]``: row of the batch of each entry."""
    starts: Tensor
    """``[d_sae + 1]``: where each latent begins."""

    def weighted_sum(self, values: Tensor, weights: Tensor) -> Tensor:
        """``[d_sae, d_in]``: for each latent, the sum over its entries of weight * values[row]."""
        return weighted_sums(values, self.rows, self.starts, weights.index_select(0, self.order))


def by_latent(latents: Tensor, row_starts: Tensor, d_sae: int) -> ByLatent:
    """From entries ``latents [n]`` laid out row by row, as ``row_starts [batch + 1]`` says."""
    every_row = torch.arange(len(row_starts) - 1, device=latents.device, dtype=torch.int32)
    ascending, order = latents.sort(stable=True)
    rows = torch.repeat_interleave(every_row, row_starts.diff())
    return ByLatent(order, rows.index_select(0, order), starts(ascending, d_sae))


def starts(ascending: Tensor, n: int) -> Tensor:
    """``[n + 1]`` int32: where each of 0 .. n - 1 begins in a sorted index."""
    numbers = torch.arange(n + 1, device=ascending.device, dtype=ascending.dtype)
    return torch.searchsorted(ascending, numbers, out_int32=True)


def weighted_sums(values: Tensor, indices: Tensor, group_starts: Tensor, weights: Tensor) -> Tensor:
    """``[groups, d_in]``: for each group of ``indices``, the sum of weight * values[index]."""
    return embedding_bag(
        indices, values, group_starts, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def sampled_products(left: Tensor, right: Tensor, left_starts: Tensor, right_rows: Tensor) -> Tensor:
    """``[n]``: <left[i], right[j]> for the pairs (i, j) that compressed rows ``left_starts``, ``right_rows`` name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        pattern = torch.sparse_csr_tensor(
            left_starts,
            right_rows,
            left.new_zeros(len(right_rows)),
            size=(len(left), len(right)),
            check_invariants=False,
        )
    return torch.sparse.sampled_addmm(pattern, left, right.T, beta=0.0).values()
