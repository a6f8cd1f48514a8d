"""Tiny Llamas whose blocks compute something else."""

import types
from typing import Any

import torch
from torch import Tensor, nn

from hookpoints.capture import ActivationCapture
from hookpoints.sites import SITES, Hookpoint
from tests.models import tiny_llama

INPUT_IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])


def model_of(forward):
    model: Any = tiny_llama()
    for layer in model.model.layers:
        layer.extra = nn.Linear(32, 32, bias=False)
        nn.init.normal_(layer.extra.weight, std=0.2)
        layer.forward = types.MethodType(forward, layer)
    return model.requires_grad_(False)


def attention(block, x: Tensor, kwargs) -> Tensor:
    return block.self_attn(hidden_states=block.input_layernorm(x), **kwargs)[0]


def mlp(block, x: Tensor) -> Tensor:
    return block.mlp(block.post_attention_layernorm(x))


def usual(block, hidden_states, **kwargs):
    mid = hidden_states + attention(block, hidden_states, kwargs)
    return mid + mlp(block, mid)


def found(model) -> dict[str, Tensor | str]:
    """Each site's value, or why there is none."""
    values: dict[str, Tensor | str] = {}
    for site in SITES:
        try:
            with ActivationCapture(model, [Hookpoint(site, 1)], 64) as capture:
                values[site] = capture.run(INPUT_IDS)[Hookpoint(site, 1).name]
        except ValueError as refusal:
            values[site] = str(refusal)
    return values
