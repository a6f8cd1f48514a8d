"""Blocks that no library has: what is added to the stream is found where an equation holds, and refused elsewhere."""

import copy

import pytest
import torch
from torch import Tensor, nn

from hookpoints.anatomy import Place
from hookpoints.blocks import attached, find_blocks, forward
from hookpoints.capture import ActivationCapture
from hookpoints.equations import adds_up, find_sum
from hookpoints.probe import anatomies, probe_tokens
from hookpoints.sites import Hookpoint
from tests.hookpoints.families import FAMILIES, tiny
from tests.hookpoints.toys import INPUT_IDS, attention, found, mlp, model_of, usual


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


def in_a_row(*parts: str):
    """A block of sublayers, each added to the stream: attention where the name says so, one matrix for `mamba` and `memory`."""

    def forward(block, hidden_states, **kwargs):
        for name in parts:
            part, x = getattr(block, name), getattr(block, f"norm_of_{name}")(hidden_states)
            hidden_states = hidden_states + (part(hidden_states=x, **kwargs)[0] if "attn" in name else part(x))
        return hidden_states

    model = model_of(forward)
    for layer in model.model.layers:
        kinds = {"attn": layer.self_attn, "mlp": layer.mlp, "mamba": layer.extra, "memory": layer.extra}
        for name in parts:
            part = copy.deepcopy(next(kind for word, kind in kinds.items() if word in name))
            for parameter in part.parameters():
                nn.init.normal_(parameter, std=0.2)
            setattr(layer, name, part)
            setattr(layer, f"norm_of_{name}", copy.deepcopy(layer.input_layernorm))
    return model.requires_grad_(False)


def without(model, *names: str) -> Tensor:
    """resid_post of block 1 when some of its parts give nothing."""
    for name in names:
        for parameter in getattr(model.model.layers[1], name).parameters():
            parameter.data.zero_()
    with ActivationCapture(model, [Hookpoint("resid_post", 1)], 64) as capture:
        return capture.run(INPUT_IDS)["blocks.1.hook_resid_post"]


@pytest.mark.parametrize(
    ("parts", "sites"),
    [
        (("mlp1", "self_attn", "mlp"), {"attn_out", "mlp_out"}),
        (("attn1", "attn2", "mlp"), {"attn_out", "mlp_out", "resid_mid"}),
        (("mamba", "self_attn", "mlp"), {"attn_out", "mlp_out", "resid_mid"}),
        (("self_attn", "mamba", "mlp"), {"attn_out", "mlp_out", "resid_mid"}),
        (("self_attn", "mlp", "mlp2"), {"attn_out", "mlp_out", "resid_mid"}),
        (("attn1", "mlp1", "attn2", "mlp2"), {"attn_out", "mlp_out"}),
        (("self_attn", "memory"), {"attn_out"}),
        (("self_attn", "memory", "mlp"), {"attn_out"}),
    ],
)
def test_blocks_of_other_sublayers(parts, sites):
    """A role's site is all that it adds; resid_mid is what lies between attention and its like, and MLPs."""
    model = in_a_row(*parts)
    got = found(model)
    assert {site for site in ("resid_mid", "attn_out", "mlp_out") if isinstance(got[site], Tensor)} == sites
    mlps = [name for name in parts if "mlp" in name]
    if "resid_mid" in sites:
        torch.testing.assert_close(got["resid_mid"], without(model, *mlps))  # pyright: ignore
    if "mlp_out" in sites and "mamba" not in parts:
        torch.testing.assert_close(got["resid_post"], got["resid_pre"] + got["attn_out"] + got["mlp_out"])  # pyright: ignore


def late_branch(block, hidden_states, **kwargs):
    """Something more is added from the seventeenth token on."""
    after = usual(block, hidden_states, **kwargs)
    after[:, 16:] += block.extra(hidden_states)[:, 16:]
    return after


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_branch_that_adds_little_or_late_is_seen(dtype):
    def weak_branch(block, hidden_states, **kwargs):
        mid = hidden_states + attention(block, hidden_states, kwargs)
        return mid + mlp(block, mid) + 0.003 * block.extra(block.post_attention_layernorm(mid))

    for change in (late_branch, weak_branch):
        assert isinstance(found(model_of(change).to(dtype))["mlp_out"], str)


def test_a_stream_that_is_scaled_a_little_is_refused():
    def forward(block, hidden_states, **kwargs):
        return usual(block, 0.998 * hidden_states, **kwargs)

    assert isinstance(found(model_of(forward).bfloat16())["mlp_out"], str)


@pytest.mark.parametrize(("part", "site"), [("self_attn.o_proj", "attn_out"), ("mlp.down_proj", "mlp_out")])
def test_a_sublayer_that_adds_nothing(part, site):
    model = model_of(usual)
    model.model.layers[1].get_submodule(part).weight.zero_()
    got = found(model)
    assert "adds less than the rounding of the stream" in got[site]  # pyright: ignore
    assert "adds less than the rounding of the stream" in got["resid_mid"]  # pyright: ignore
    assert isinstance(got["mlp_out" if site == "attn_out" else "attn_out"], Tensor)


def test_multipliers_of_any_kind():
    def forward(block, hidden_states, **kwargs):
        mid = hidden_states + attention(block, hidden_states, kwargs) * block.res_mult
        return mid + mlp(block, mid) * block.res_mult

    for multiplier in (2, 0.37, torch.tensor(0.37), nn.Parameter(torch.tensor([0.37]))):
        model = model_of(forward)
        for layer in model.model.layers:
            layer.res_mult = multiplier
        got = found(model)
        torch.testing.assert_close(got["resid_post"], got["resid_pre"] + got["attn_out"] + got["mlp_out"])  # pyright: ignore


@pytest.mark.filterwarnings("ignore")  # of transformers' own configurations
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["bert", "camembert", "electra", "marian", "blenderbot-small"])
def test_a_state_of_the_stream_is_not_taken_for_what_is_added(name, dtype):
    """Blocks that normalise the stream, with sublayers near its rounding: what is found is what the sublayer gave, or nothing."""
    model = tiny(name)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(0.1)
    model = model.to(dtype)
    outputs = FAMILIES[name].modules
    assert outputs is not None
    for layer, sites in anatomies(model, range(4), 21).items():
        for site in ("attn_out", "mlp_out"):
            place, module = sites[site], outputs[site]
            if not isinstance(place, Place):
                continue
            expected: list[Tensor] = []

            def keep(_module, _args, output, expected=expected):
                expected.append(output[0] if isinstance(output, tuple) else output)

            with attached([find_blocks(model)[layer].get_submodule(module).register_forward_hook(keep)]):
                with ActivationCapture(model, [Hookpoint(site, layer)], 21) as capture:
                    expected.clear()
                    (value,) = capture.run(probe_tokens(model, 21)).values()
                forward(model, probe_tokens(model, 21))
            torch.testing.assert_close(value, expected[-1].reshape(value.shape), rtol=0, atol=0)


def test_a_sum_is_told_from_rounding_in_low_precision():
    """bfloat16: an addition of one hundredth of the stream is found, another tensor is not taken for it."""
    generator = torch.Generator().manual_seed(0)
    stream, added, other = torch.randn(3, 64, 64, generator=generator)
    before, added, other = stream.bfloat16(), (0.01 * added).bfloat16(), (0.01 * other).bfloat16()
    rounding = torch.finfo(torch.bfloat16).eps

    def found_in(after: Tensor, *tensors: Tensor, multipliers=()):
        values = torch.stack([(tensor.double() / before.double().abs()).flatten() for tensor in tensors])
        change = ((after.double() - before.double()) / before.double().abs()).flatten()

        def holds(indices, factors):
            return adds_up(before, after, [tensors[i] for i in indices], factors)

        return find_sum(change, values, values @ values.T, range(len(tensors)), 1, rounding, multipliers, holds)

    sum_found = found_in(before + added, other, added)
    assert sum_found is not None
    assert (sum_found.indices, sum_found.factors) == ((1,), (1.0,))
    assert found_in(before + added, other) is None
    third = (added / 0.3).bfloat16()
    scaled = found_in(before + 0.3 * third, third, multipliers=[0.3])
    assert scaled is not None
    assert scaled.factors == (0.3,)
    assert found_in(before + 0.3 * third, third) is None
