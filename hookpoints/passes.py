"""A shard's contexts through the model: forward passes of packed contexts or of padded pieces, the same rows either way."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hookpoints.capture import ActivationCapture
from hookpoints.config import HarvestConfig
from hookpoints.contents import RowSettings
from hookpoints.contexts import Contexts, packed_batches, padded_batches
from hookpoints.records import Dropped


class Pass(NamedTuple):
    """What one forward pass leaves of a shard, on the CPU."""

    place: Tensor
    """``[n]``: which tokens of the shard, counted over its contexts."""
    activations: dict[str, Tensor]
    """``[n, d_in]`` by hook name."""
    n_tokens: int
    """Tokens read, dropped ones included."""


class Selection(NamedTuple):
    """Which tokens of a shard become rows."""

    keep: Tensor
    """``[n_contexts, context]`` bool."""
    n_dropped: Dropped


class ShardRows(NamedTuple):
    """A shard's rows in the order of its contexts."""

    tokens: dict[str, Tensor]
    """``token_ids sequence position document``, ``[n_rows]`` int32 each."""
    passes: list[Pass]
    n_dropped: Dropped

    def take(self, hook_name: str, order: Tensor) -> Tensor:
        """Activations ``[n_rows, d_in]`` of a hook in another order; they are let go."""
        in_order_of_contexts = torch.cat([one.place for one in self.passes]).argsort()
        rows = torch.cat([one.activations.pop(hook_name) for one in self.passes])
        return rows[in_order_of_contexts[order]]


def select(contexts: Contexts, config: HarvestConfig | RowSettings, special_tokens: Sequence[int]) -> Selection:
    """Leave out first positions of pieces, and special tokens, as the study says."""
    nothing = torch.zeros_like(contexts.input_ids, dtype=torch.bool)
    is_first = contexts.position_ids == 0 if config.drop_first_position else nothing
    special = torch.tensor(sorted(special_tokens), dtype=torch.int64)
    is_special = torch.isin(contexts.input_ids, special) if config.drop_special_tokens else nothing
    dropped = Dropped(first_position=int(is_first.sum()), special_tokens=int((is_special & ~is_first).sum()))
    return Selection(~(is_first | is_special), dropped)


def passes(
    capture: ActivationCapture, contexts: Contexts, keep: Tensor, config: HarvestConfig, *, is_packed: bool
) -> Iterator[Pass]:
    """Every kept token's activations, once; ``keep [n_contexts, context]``."""
    batches = (
        packed_batches(contexts, config.batch_contexts) if is_packed else padded_batches(contexts, config.batch_tokens)
    )
    device, kept_tokens = capture.model.device, keep.flatten()
    for batch in batches:
        position_ids = None if batch.position_ids is None else batch.position_ids.to(device)
        captured = capture.run(batch.input_ids.to(device), position_ids)
        is_token = batch.place >= 0
        wanted = is_token & kept_tokens[batch.place.clamp_min(0)]
        rows = {name: value[wanted.to(value.device)].cpu() for name, value in captured.items()}
        yield Pass(batch.place[wanted], rows, int(is_token.sum()))


def token_columns(contexts: Contexts, keep: Tensor, first_context: int) -> dict[str, Tensor]:
    """What is stored of each kept token; sequences are counted over the split."""
    n_contexts = len(contexts.input_ids)
    sequence = torch.arange(first_context, first_context + n_contexts, dtype=torch.int32)[:, None].expand_as(keep)
    return {
        "token_ids": contexts.input_ids[keep].int(),
        "sequence": sequence[keep],
        "position": contexts.position_ids[keep].int(),
        "document": contexts.documents[keep],
    }
