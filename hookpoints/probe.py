"""What is proved of the blocks of a loaded model before a site is trusted, on one row of tokens as long as a context."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hookpoints.anatomy import Anatomy, Place, Refusal, anatomy
from hookpoints.blocks import Stop, attached, find_blocks, float_tensors, forward
from hookpoints.recorder import BlockRecorder
from hookpoints.sites import Hookpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
"""What a model's own code may raise on input it is not made for."""
_STREAM_AXES = 3
_N_TOKENS_TO_COUNT = 2
_POSITION_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")


def find_places(model: "PreTrainedModel", hookpoints: Sequence[Hookpoint], n_tokens: int) -> dict[str, Place]:
    """Where each hookpoint is read, by hook name. Raises ValueError with the reason where a site is not proved."""
    sites = anatomies(model, {hookpoint.layer for hookpoint in hookpoints}, n_tokens)
    places: dict[str, Place] = {}
    for hookpoint in hookpoints:
        found = sites[hookpoint.layer][hookpoint.site]
        if isinstance(found, Refusal):
            raise ValueError(
                f"{hookpoint.site} does not exist in {type(model).__name__}, block {hookpoint.layer}: {found.reason}"
            )
        places[hookpoint.name] = found
    return places


def anatomies(model: "PreTrainedModel", layers: Collection[int], n_tokens: int) -> dict[int, Anatomy]:
    """Every site of some blocks, or why there is none, by one forward pass on ``n_tokens`` tokens.

    Proved are: that the blocks found are those that run, once each and one after the other; that the stream is one vector
    a token; and the equation of each site. Raises ValueError with the reason where the first two fail.
    """
    blocks, name = find_blocks(model), type(model).__name__
    _check_positions(model, n_tokens)
    near = sorted({layer for one in layers for layer in (one - 1, one, one + 1) if 0 <= layer < len(blocks)})
    _check_runs(model, {layer: blocks[layer] for layer in near})
    recorders = {layer: BlockRecorder(blocks[layer], inside=layer in layers) for layer in near}
    input_ids = probe_tokens(model, n_tokens)
    outside = _Outside(model, blocks[0]) if len(blocks) == 1 else None
    handles = [handle for recorder in recorders.values() for handle in recorder.handles()]
    handles += outside.handles() if outside else [blocks[near[-1]].register_forward_hook(_stop)]
    with attached(handles):
        _forward(model, input_ids)
    for layer, recorder in recorders.items():
        _check_stream(name, layer, recorder, input_ids)
    for layer in recorders:
        _check_chain(name, layer, recorders)
    if outside is not None and not outside.has(recorders[0].stream_out):
        raise ValueError(
            f"nothing of {name} outside its only block reads what that gives, so the list that was taken for its blocks does "
            "not carry the residual stream"
        )
    return {layer: anatomy(model, blocks[layer], recorders[layer]) for layer in layers}


def probe_tokens(model: "PreTrainedModel", n_tokens: int, shift: int = 0) -> Tensor:
    """``[1, n_tokens]`` tokens, the same every time, none of those to which the configuration gives a meaning.

    Another ``shift`` gives another token everywhere.
    """
    text = model.config.get_text_config()
    special = set(_token_ids(model.config)) | set(_token_ids(text))
    usual = torch.tensor([token for token in range(text.vocab_size) if token not in special])
    draws = torch.randint(len(usual), (1, n_tokens), generator=torch.Generator().manual_seed(0))
    return usual[(draws + shift) % len(usual)].to(model.device)


def _forward(model: "PreTrainedModel", input_ids: Tensor) -> None:
    try:
        forward(model, input_ids)
    except FAILURES as error:
        raise ValueError(
            f"{type(model).__name__} cannot read {input_ids.shape[1]} tokens of text: {type(error).__name__}: {error}"
        ) from error


def _stop(_module: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
    raise Stop


def _check_runs(model: "PreTrainedModel", blocks: Mapping[int, nn.Module]) -> None:
    """Every block runs once in a forward pass."""
    n_runs = Counter[int]()
    with attached(
        block.register_forward_pre_hook(lambda *_, layer=layer: n_runs.update([layer]))
        for layer, block in blocks.items()
    ):
        _forward(model, probe_tokens(model, _N_TOKENS_TO_COUNT))
    for layer in blocks:
        if n_runs[layer] != 1:
            ran = f"runs {n_runs[layer]} times" if n_runs[layer] else "does not run"
            raise ValueError(
                f"block {layer} of {type(model).__name__} {ran} when the model reads text, so its sites have no one value"
            )


def _token_ids(config: Any) -> Iterator[int]:
    values: Mapping[str, Any] = vars(config)
    for key, value in values.items():
        if key.endswith(("token_id", "token_index")):
            yield from (token for token in (value if isinstance(value, list) else [value]) if isinstance(token, int))


def _check_positions(model: "PreTrainedModel", n_tokens: int) -> None:
    text = model.config.get_text_config()
    limits = {key: getattr(text, key, None) for key in _POSITION_KEYS}
    for key, limit in limits.items():
        if isinstance(limit, int) and 0 < limit < n_tokens:
            raise ValueError(
                f"{type(model).__name__} has {limit} positions ({key}), fewer than the {n_tokens} tokens of a context; set "
                f"harvest.context_length to {limit} or less"
            )


def _check_stream(name: str, layer: int, recorder: BlockRecorder, input_ids: Tensor) -> None:
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
    widths = [stream.shape[-1] for stream in (recorder.stream_in, recorder.stream_out) if stream is not None]
    if len(set(widths)) > 1:
        raise ValueError(f"the stream of {name} changes its width from {widths[0]} to {widths[1]} at block {layer}")


def _check_chain(name: str, layer: int, recorders: Mapping[int, BlockRecorder]) -> None:
    """What a block gives is what the next one is given, in one tensor."""
    if layer + 1 not in recorders:
        return
    before, after = recorders[layer], recorders[layer + 1]
    if before.stream_out is None or after.stream_in is None or not torch.equal(before.stream_out, after.stream_in):
        raise ValueError(
            f"what block {layer} of {name} gives is not what block {layer + 1} is given, so the list that was taken for its "
            "blocks does not carry the residual stream"
        )
    if any(torch.equal(gave, given) for gave in before.beside_out for given in after.beside_in):
        raise ValueError(
            f"the blocks of {name} hand the stream on in more than one tensor (block {layer} to block {layer + 1}), so none "
            "of them is the residual stream"
        )


class _Outside:
    """What the modules around the only block of a model are given, and what the body gives."""

    def __init__(self, model: "PreTrainedModel", block: nn.Module) -> None:
        inside = set(block.modules())
        self._modules = [module for module in model.base_model.modules() if module not in inside]
        self._seen: list[Tensor] = []

    def handles(self) -> Iterator[RemovableHandle]:
        """Hooks on all of them."""

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._seen.extend(float_tensors(args, kwargs))

        def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            self._seen.extend(float_tensors(output))

        *around, body = reversed(self._modules)
        for module in around:
            yield module.register_forward_pre_hook(before, with_kwargs=True)
        yield body.register_forward_hook(after)

    def has(self, stream: Tensor | None) -> bool:
        """Whether one of these is the stream."""
        return stream is not None and any(
            seen.shape == stream.shape and torch.equal(seen, stream) for seen in self._seen
        )
