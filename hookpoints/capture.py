"""Capture of activations with plain forward hooks on a transformers model, stopping after the deepest one.

Names follow TransformerLens (``blocks.14.hook_mlp_out``); the values are held against its TransformerBridge in the
tests. Where a site is read is proved on the loaded model before anything is trusted (`hookpoints.probe`).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hookpoints.anatomy import Term
from hookpoints.blocks import Stop, find_blocks, forward, given_tensor, returned_tensor
from hookpoints.probe import find_places
from hookpoints.sites import Hookpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _Read(NamedTuple):
    """One term of one hookpoint."""

    hook_name: str
    number: int
    module: nn.Module
    term: Term


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
        blocks = find_blocks(model)
        self._reads = [
            _Read(hookpoint.name, number, blocks[hookpoint.layer].get_submodule(term.module), term)
            for hookpoint in hookpoints
            for number, term in enumerate(self.places[hookpoint.name].terms)
        ]
        self._seen: dict[tuple[str, int], Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "ActivationCapture":
        self._handles = [handle for read in self._reads for handle in self._hooks(read)]
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
        self._seen = {}
        forward(self._model, input_ids, position_ids)
        seen, self._seen = self._seen, {}
        if len(seen) < len(self._reads):
            missing = next(read for read in self._reads if (read.hook_name, read.number) not in seen)
            raise ValueError(
                f"{missing.hook_name} is read at {missing.term.module or 'its block'}, which does not run on rows of "
                f"{input_ids.shape[1]} tokens"
            )
        values: dict[str, Tensor] = {}
        for read in self._reads:
            value = seen[read.hook_name, read.number]
            values[read.hook_name] = values[read.hook_name] + value if read.number else value
        return {name: value.reshape(*input_ids.shape, value.shape[-1]) for name, value in values.items()}

    def _hooks(self, read: _Read) -> Iterator[RemovableHandle]:
        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._keep(read, given_tensor(args, kwargs))

        def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            self._keep(read, returned_tensor(output))

        if read.term.end == "input":
            yield read.module.register_forward_pre_hook(before, with_kwargs=True)
        else:
            yield read.module.register_forward_hook(after)

    def _keep(self, read: _Read, value: Tensor | None) -> None:
        """A copy: some models add to a tensor in place after they have handed it on."""
        assert value is not None
        self._seen[read.hook_name, read.number] = value * read.term.factor if read.term.factor != 1 else value.clone()
        if len(self._seen) == len(self._reads):
            raise Stop
