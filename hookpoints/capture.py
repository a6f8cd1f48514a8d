"""Capture of activations with plain forward hooks on a transformers model, stopping after the deepest one.

Names follow TransformerLens (``blocks.14.hook_mlp_out``); the values are held against its TransformerBridge in the
tests. Every hooked tensor is the one the model computes, not a copy.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from hookpoints.sites import Hookpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ATTENTION_NAMES = ("self_attn", "attention", "attn", "self_attention")
_MLP_NAMES = ("mlp", "feed_forward", "block_sparse_moe", "ffn")
_SECOND_NORM_NAMES = ("post_attention_layernorm", "ln_2", "ffn_norm", "norm_2")
_PARALLEL_FLAGS = ("use_parallel_residual", "parallel_attn", "new_decoder_architecture")


class _Stop(Exception):
    """Raised inside the forward pass once every hook has fired."""


class Block(NamedTuple):
    """The parts of one transformer block; None where the architecture has none that can be told."""

    module: nn.Module
    attention_out: nn.Module | None
    """Its output is what attention adds to the residual stream."""
    mlp_out: nn.Module | None
    """Its output is what the MLP adds to the residual stream."""
    second_norm: nn.Module | None
    """Its input is the stream between attention and MLP; None in a parallel block, where no such stream exists."""
    is_parallel: bool


def find_blocks(model: "PreTrainedModel") -> list[Block]:
    """The transformer blocks in order. Raises ValueError when the model has no list of them."""
    text_config = model.config.get_text_config()
    n_layers = text_config.num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of {n_layers} blocks; its hookpoints cannot be found")
    return [_describe_block(block, text_config) for block in lists[0]]


def _describe_block(block: nn.Module, text_config: Any) -> Block:
    children = dict(block.named_children())

    def first(*names: str) -> nn.Module | None:
        return next((children[name] for name in names if name in children), None)

    is_parallel = any(getattr(text_config, flag, False) for flag in _PARALLEL_FLAGS)
    if "post_feedforward_layernorm" in children:  # outputs are normalised before they join the stream (Gemma 2, OLMo 2)
        attention_out, mlp_out = first("post_attention_layernorm"), first("post_feedforward_layernorm")
        second_norm = first("pre_feedforward_layernorm")
    else:
        attention_out, mlp_out = first(*_ATTENTION_NAMES), first(*_MLP_NAMES)
        second_norm = first(*_SECOND_NORM_NAMES)
        is_parallel = is_parallel or second_norm is None
    return Block(block, attention_out, mlp_out, None if is_parallel else second_norm, is_parallel)


class ActivationCapture:
    """Runs a model up to its deepest hookpoint and returns the activations there.

    Use as a context manager; leaving it removes the hooks. Raises ValueError for a site the model lacks.
    """

    def __init__(self, model: "PreTrainedModel", hookpoints: Sequence[Hookpoint]) -> None:
        self._model = model
        self._body = model.base_model
        self._names = [hookpoint.name for hookpoint in hookpoints]
        self._captured: dict[str, Tensor] = {}
        blocks = find_blocks(model)
        self._handles = [self._attach(blocks, hookpoint) for hookpoint in hookpoints]

    def __enter__(self) -> "ActivationCapture":
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def run(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Activations of every hookpoint for ``input_ids [batch, context]``: ``{hook_name: [batch, context, d_in]}``.

        ``attention_mask`` is additive and four-dimensional ``[batch, 1, context, context]``, in the model's dtype;
        leave it and ``position_ids [batch, context]`` out for plain causal attention.
        """
        self._captured = {}
        extra = {} if attention_mask is None else {"attention_mask": attention_mask, "position_ids": position_ids}
        with suppress(_Stop):
            self._body(input_ids=input_ids, use_cache=False, **extra)
        captured, self._captured = self._captured, {}
        return {name: captured[name] for name in self._names}

    def _attach(self, blocks: list[Block], hookpoint: Hookpoint) -> Any:
        block = blocks[hookpoint.layer]
        match hookpoint.site:
            case "resid_pre":
                return block.module.register_forward_pre_hook(self._on_input(hookpoint.name), with_kwargs=True)
            case "resid_mid":
                norm = self._require(block.second_norm, hookpoint, block)
                return norm.register_forward_pre_hook(self._on_input(hookpoint.name), with_kwargs=True)
            case "resid_post":
                return block.module.register_forward_hook(self._on_output(hookpoint.name))
            case "attn_out":
                return self._require(block.attention_out, hookpoint, block).register_forward_hook(
                    self._on_output(hookpoint.name)
                )
            case "mlp_out":
                return self._require(block.mlp_out, hookpoint, block).register_forward_hook(
                    self._on_output(hookpoint.name)
                )

    def _require(self, module: nn.Module | None, hookpoint: Hookpoint, block: Block) -> nn.Module:
        if module is not None:
            return module
        if hookpoint.site == "resid_mid" and block.is_parallel:
            raise ValueError(
                f"resid_mid does not exist in {type(self._model).__name__}: its blocks run attention and MLP in parallel; "
                "use resid_pre, resid_post, attn_out or mlp_out"
            )
        parts = ", ".join(name for name, _ in block.module.named_children())
        raise ValueError(
            f"{hookpoint.site} cannot be found in {type(self._model).__name__}, whose blocks have: {parts}"
        )

    def _on_input(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._keep(name, args[0] if args else kwargs["hidden_states"])

        return hook

    def _on_output(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            self._keep(name, output[0] if isinstance(output, tuple) else output)

        return hook

    def _keep(self, name: str, value: Tensor) -> None:
        self._captured[name] = value
        if len(self._captured) == len(self._names):
            raise _Stop
