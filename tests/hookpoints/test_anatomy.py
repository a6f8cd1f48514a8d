"""Blocks that no library has: what is added to the stream is found where an equation holds, and refused elsewhere."""

import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookpoints.capture import ActivationCapture
from hookpoints.equations import find_sum
from hookpoints.packing import prove_packing
from hookpoints.sites import SITES, Hookpoint
from tests.models import tiny_llama

INPUT_IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])


def model_of(forward):
    """A tiny Llama whose blocks compute something else."""
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


def in_place(block, hidden_states, **kwargs):
    """What attention gave is wiped out after it was added, and the MLP's output becomes the stream."""
    given = attention(block, hidden_states, kwargs)
    mid = hidden_states + given
    added = mlp(block, mid)
    given.mul_(0)
    return added.add_(mid)


def subtracted(block, hidden_states, **kwargs):
    mid = hidden_states - attention(block, hidden_states, kwargs)
    return mid + mlp(block, mid)


def mlp_first(block, hidden_states, **kwargs):
    mid = hidden_states + mlp(block, hidden_states)
    return mid + attention(block, mid, kwargs)


def three_branches(block, hidden_states, **kwargs):
    x = block.post_attention_layernorm(hidden_states)
    return hidden_states + attention(block, hidden_states, kwargs) + block.mlp(x) + block.extra(x)


def mlp_twice(block, hidden_states, **kwargs):
    mid = hidden_states + attention(block, hidden_states, kwargs)
    mid = mid + mlp(block, mid)
    return mid + mlp(block, mid)


def shrunk_stream(block, hidden_states, **kwargs):
    mid = 0.9 * hidden_states + attention(block, hidden_states, kwargs)
    return 0.9 * mid + mlp(block, mid)


def gated_by_the_tokens(block, hidden_states, **kwargs):
    added = attention(block, hidden_states, kwargs)
    mid = hidden_states + torch.sigmoid(added.mean()) * added
    return mid + mlp(block, mid)


def usual(block, hidden_states, **kwargs):
    mid = hidden_states + attention(block, hidden_states, kwargs)
    return mid + mlp(block, mid)


def looks_ahead(block, hidden_states, **kwargs):
    after = usual(block, hidden_states, **kwargs)
    return after + torch.cat([after[:, 2:], torch.zeros_like(after[:, :2])], dim=1)


def sees_the_first_token(block, hidden_states, **kwargs):
    after = usual(block, hidden_states, **kwargs)
    return after + 0.1 * after[:, :1]


def found(model) -> dict[str, Tensor | str]:
    """Each site's value, or why there is none."""
    values: dict[str, Tensor | str] = {}
    for site in SITES:
        try:
            with ActivationCapture(model, [Hookpoint(site, 1)]) as capture:
                values[site] = capture.run(INPUT_IDS)[Hookpoint(site, 1).name]
        except ValueError as refusal:
            values[site] = str(refusal)
    return values


@pytest.mark.parametrize("forward", [in_place, subtracted])
def test_the_equation_holds_whatever_the_block_does(forward):
    got = found(model_of(forward))
    torch.testing.assert_close(got["resid_mid"], got["resid_pre"] + got["attn_out"])  # pyright: ignore
    torch.testing.assert_close(got["resid_post"], got["resid_mid"] + got["mlp_out"])  # pyright: ignore


def test_an_mlp_before_attention():
    got = found(model_of(mlp_first))
    assert "run the MLP before attention" in got["resid_mid"]
    torch.testing.assert_close(got["resid_post"], got["resid_pre"] + got["attn_out"] + got["mlp_out"])  # pyright: ignore


@pytest.mark.parametrize("forward", [three_branches, mlp_twice, shrunk_stream, gated_by_the_tokens])
def test_what_is_not_attention_and_an_mlp_is_refused(forward):
    got = found(model_of(forward))
    for site in ("resid_mid", "attn_out", "mlp_out"):
        assert isinstance(got[site], str), site
        assert "no parts of its block add up" in got[site]
    assert isinstance(got["resid_post"], Tensor)


def test_rows_that_see_later_tokens_are_refused_and_rows_that_see_the_first_are_not_packed():
    with (
        ActivationCapture(model_of(looks_ahead), [Hookpoint("resid_post", 2)]) as capture,
        pytest.raises(ValueError, match="is not causal: tokens after a piece change its activations"),
    ):
        prove_packing(capture, 64)
    with ActivationCapture(model_of(sees_the_first_token), [Hookpoint("resid_post", 2)]) as capture:
        packing = prove_packing(capture, 64)
    assert not packing.is_packed
    assert "lets a piece see the one before it" in packing.reason


def test_rotary_frequencies_that_follow_the_longest_position_are_refused():
    model = tiny_llama()
    model.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    with ActivationCapture(model, [Hookpoint("resid_post", 2)]) as capture:
        assert prove_packing(capture, 128).is_packed
        with pytest.raises(
            ValueError, match=r"depend on the longest position.*set harvest.context_length to 128 or less"
        ):
            prove_packing(capture, 256)


@pytest.mark.parametrize("context_length", [2, 3, 9, 64])
def test_packing_is_proved_at_any_context_length(context_length):
    with ActivationCapture(tiny_llama(), [Hookpoint("mlp_out", 1)]) as capture:
        packing = prove_packing(capture, context_length)
    assert packing.is_packed
    assert packing.probe_length == min(context_length, 48)


def test_a_sum_is_told_from_rounding_in_low_precision():
    """bfloat16: an addition of one hundredth of the stream is found, another tensor is not taken for it."""
    generator = torch.Generator().manual_seed(0)
    stream, added, other = torch.randn(3, 4096, generator=generator, dtype=torch.float64)
    rounding = torch.finfo(torch.bfloat16).eps
    before, added = stream.bfloat16().double(), (0.01 * added).bfloat16().double()
    after = (before + added).bfloat16().double()
    sum_found = find_sum(after - before, torch.stack([0.01 * other, added]), [0, 1], 1, rounding, [])
    assert sum_found is not None
    assert sum_found.indices == (1,)
    assert sum_found.factors == (1.0,)
    assert find_sum(after - before, torch.stack([0.01 * other]), [0], 1, rounding, []) is None
    assert find_sum(after - before, torch.stack([added / 0.3]), [0], 1, rounding, [0.3]) is not None
    assert find_sum(after - before, torch.stack([added / 0.3]), [0], 1, rounding, []) is None
