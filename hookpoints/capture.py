"""Capture of activations with plain forward hooks on a transformers model, stopping after the deepest one.

Names follow TransformerLens (``blocks.14.hook_mlp_out``); the values are held against its TransformerBridge in the
tests. Where a site is read is proved on the loaded model before anything is trusted (`hookpoints.probe`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from hookpoints.blocks import forward
from hookpoints.probe import find_places
from hookpoints.reads import SiteReads
from hookpoints.sites import Hookpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ActivationCapture:
    """Runs a model up to its deepest hookpoint and returns the activations there.

    Making one runs the model on a row of ``context_length`` tokens to find and prove where every hookpoint is read. Use as
    a context manager; leaving it removes the hooks. Raises ValueError for a site the model lacks, or whose place cannot be
    proved.
    """

    def __init__(self, model: "PreTrainedModel", hookpoints: Sequence[Hookpoint], context_length: int) -> None:
        self._model = model
        self.context_length = context_length
        """Tokens of the longest row that may be read."""
        self.places = find_places(model, hookpoints, context_length)
        """Where each hookpoint is read, by hook name."""
        self._reads = SiteReads(model, {one: self.places[one.name] for one in hookpoints}, stops=True)
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "ActivationCapture":
        self._handles = list(self._reads.handles())
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def model(self) -> "PreTrainedModel":
        """The model that is read."""
        return self._model

    def run(self, input_ids: Tensor, position_ids: Tensor | None = None) -> dict[str, Tensor]:
        """Activations of every hookpoint for ``input_ids [batch, context]``: ``{hook_name: [batch, context, d_in]}``.

        ``position_ids [batch, context]`` that start anew inside a row say that several pieces are packed there; whether
        the model keeps them apart is for `hookpoints.packing` to prove. Raises ValueError where a part that is read does
        not run, and for rows longer than what was proved.
        """
        if input_ids.shape[1] > self.context_length:
            raise ValueError(
                f"rows of {input_ids.shape[1]} tokens are longer than the {self.context_length} that the capture was proved for"
            )
        self._reads.forget()
        forward(self._model, input_ids, position_ids)
        return self._reads.take((input_ids.shape[0], input_ids.shape[1]))
