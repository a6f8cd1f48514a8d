"""Capture of activations with plain forward hooks on a transformers model, stopping after the deepest one.

Names follow TransformerLens (``blocks.14.hook_mlp_out``); the values are held against its TransformerBridge in the
tests. Where a site is read is proved on the loaded model before anything is trusted (`hookpoints.anatomy`).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hookpoints.anatomy import Anatomy, Place, Refusal, Term, anatomy
from hookpoints.blocks import Stop, attached, find_blocks, first_tensor, forward
from hookpoints.recorder import BlockRecorder
from hookpoints.sites import Hookpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_N_PROBE_TOKENS = 16
_STREAM_AXES = 3
_FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


class _Read(NamedTuple):
    """One term of one hookpoint."""

    hook_name: str
    number: int
    module: nn.Module
    term: Term


class ActivationCapture:
    """Runs a model up to its deepest hookpoint and returns the activations there.

    Making one runs the model on a few tokens to find and prove where every hookpoint is read. Use as a context manager;
    leaving it removes the hooks. Raises ValueError for a site the model lacks, or whose place cannot be proved.
    """

    def __init__(self, model: "PreTrainedModel", hookpoints: Sequence[Hookpoint]) -> None:
        self._model = model
        self.places = find_places(model, hookpoints)
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
        the model keeps them apart is for `hookpoints.packing` to prove.
        """
        self._seen = {}
        forward(self._model, input_ids, position_ids)
        seen, self._seen = self._seen, {}
        values: dict[str, Tensor] = {}
        for read in self._reads:
            value = seen[read.hook_name, read.number]
            values[read.hook_name] = values[read.hook_name] + value if read.number else value
        return {name: value.reshape(*input_ids.shape, value.shape[-1]) for name, value in values.items()}

    def _hooks(self, read: _Read) -> Iterator[RemovableHandle]:
        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._keep(read, first_tensor(*args, *kwargs.values()))

        def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            self._keep(read, first_tensor(output))

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


def find_places(model: "PreTrainedModel", hookpoints: Sequence[Hookpoint]) -> dict[str, Place]:
    """Where each hookpoint is read, by hook name. Raises ValueError with the reason where a site is not proved."""
    sites = anatomies(model, {hookpoint.layer for hookpoint in hookpoints})
    places: dict[str, Place] = {}
    for hookpoint in hookpoints:
        found = sites[hookpoint.layer][hookpoint.site]
        if isinstance(found, Refusal):
            raise ValueError(
                f"{hookpoint.site} does not exist in {type(model).__name__}, block {hookpoint.layer}: {found.reason}"
            )
        places[hookpoint.name] = found
    return places


def anatomies(model: "PreTrainedModel", layers: Collection[int]) -> dict[int, Anatomy]:
    """Every site of some blocks, or why there is none, by one forward pass on a few tokens.

    Proved are: that the blocks found are those that run, once each and one after the other; that the stream is one vector
    a token; and the equation of each site. Raises ValueError with the reason where the first two fail.
    """
    blocks, name = find_blocks(model), type(model).__name__
    near = {layer for one in layers for layer in (one - 1, one, one + 1) if 0 <= layer < len(blocks)}
    recorders = {layer: BlockRecorder(blocks[layer], inside=layer in layers) for layer in sorted(near)}
    input_ids = probe_tokens(model, _N_PROBE_TOKENS)
    with attached(handle for recorder in recorders.values() for handle in recorder.handles()):
        try:
            forward(model, input_ids)
        except _FAILURES as error:
            raise ValueError(f"{name} cannot read plain text: {type(error).__name__}: {error}") from error
    for layer, recorder in recorders.items():
        _check_stream(name, layer, recorder, input_ids)
    for layer in recorders:
        _check_chain(name, layer, recorders)
    return {layer: anatomy(model, blocks[layer], recorders[layer]) for layer in layers}


def probe_tokens(model: "PreTrainedModel", n_tokens: int) -> Tensor:
    """``[1, n_tokens]`` tokens, the same every time, none of those to which the configuration gives a meaning."""
    text = model.config.get_text_config()
    special = set(_token_ids(model.config)) | set(_token_ids(text))
    usual = torch.tensor([token for token in range(text.vocab_size) if token not in special])
    draws = torch.randint(len(usual), (1, n_tokens), generator=torch.Generator().manual_seed(0))
    return usual[draws].to(model.device)


def _token_ids(config: Any) -> Iterator[int]:
    values: Mapping[str, Any] = vars(config)
    for key, value in values.items():
        if key.endswith(("token_id", "token_index")):
            yield from (token for token in (value if isinstance(value, list) else [value]) if isinstance(token, int))


def _check_stream(name: str, layer: int, recorder: BlockRecorder, input_ids: Tensor) -> None:
    if recorder.n_runs != 1:
        ran = "does not run" if recorder.n_runs == 0 else f"runs {recorder.n_runs} times"
        raise ValueError(f"block {layer} of {name} {ran} when the model reads text, so its sites have no one value")
    for stream in (recorder.stream_in, recorder.stream_out):
        if stream is None or stream.ndim != _STREAM_AXES or stream.shape[:2] != input_ids.shape:
            shape = "none" if stream is None else tuple(stream.shape)
            raise ValueError(
                f"the stream of {name} is not one vector a token at block {layer}: for {tuple(input_ids.shape)} tokens its "
                f"shape is {shape}"
            )
        if not bool(stream.isfinite().all()):
            raise ValueError(
                f"the stream of {name} holds NaN or infinity at block {layer}; the model overflows in its dtype: set "
                "model.dtype to bfloat16 or float32"
            )


def _check_chain(name: str, layer: int, recorders: Mapping[int, BlockRecorder]) -> None:
    """What a block gives is what the next one is given."""
    if layer + 1 not in recorders:
        return
    gave, given = recorders[layer].stream_out, recorders[layer + 1].stream_in
    if gave is None or given is None or not torch.equal(gave, given):
        raise ValueError(
            f"what block {layer} of {name} gives is not what block {layer + 1} is given, so the list that was taken for its "
            "blocks does not carry the residual stream"
        )
