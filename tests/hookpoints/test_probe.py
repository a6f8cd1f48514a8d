"""What is proved of the blocks of a model, however they are called."""

import types

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, MptConfig, MptForCausalLM, XLMConfig, XLMWithLMHeadModel

from hookpoints.capture import ActivationCapture
from hookpoints.sites import Hookpoint
from tests.hookpoints.toys import INPUT_IDS, attention, found, mlp, model_of, usual
from tests.models import tiny_llama


def body(call):
    """A model's forward pass with another way to call its blocks, or to take what they give."""

    def forward(self, input_ids=None, position_ids=None, use_cache=None, **_):
        x = self.embed_tokens(input_ids)
        position_ids = torch.arange(x.shape[1])[None] if position_ids is None else position_ids
        shared = {"position_ids": position_ids, "attention_mask": None}
        return call(self, x, self.rotary_emb(x, position_ids=position_ids), shared)

    return forward


def positions_first(self, x, rotary, shared):
    for layer in self.layers:
        x = layer(position_embeddings=rotary, hidden_states=x, **shared)
    return x


def in_a_mapping(self, x, rotary, shared):
    for layer in self.layers:
        x = layer(x, position_embeddings=rotary, **shared)["hidden_states"]
    return x


def two_streams(self, x, rotary, shared):
    residual = torch.zeros_like(x)
    for layer in self.layers:
        x, residual = layer(x, residual=residual, position_embeddings=rotary, **shared)
    return self.norm(x + residual)


def fused(block, hidden_states, residual, **kwargs):
    residual = residual + hidden_states
    residual = residual + attention(block, residual, kwargs)
    return mlp(block, residual), residual


def test_how_blocks_are_called():
    def mapping(block, hidden_states, **kwargs):
        return {"hidden_states": usual(block, hidden_states, **kwargs)}

    for change, call in ((usual, positions_first), (mapping, in_a_mapping)):
        model = model_of(change)
        model.model.forward = types.MethodType(body(call), model.model)
        got = found(model)
        assert all(isinstance(value, Tensor) for value in got.values())
        with ActivationCapture(model, [Hookpoint("resid_pre", 0)], 64) as capture:
            torch.testing.assert_close(
                capture.run(INPUT_IDS)["blocks.0.hook_resid_pre"], model.model.embed_tokens(INPUT_IDS)
            )
    model = model_of(fused)
    model.model.forward = types.MethodType(body(two_streams), model.model)
    assert all("hand the stream on in more than one tensor" in value for value in found(model).values())  # pyright: ignore
    model.model.layers = model.model.layers[:1]
    with pytest.raises(ValueError, match="nothing of LlamaForCausalLM outside its only block reads what that gives"):
        ActivationCapture(model, [Hookpoint("resid_post", 0)], 64)


def test_the_only_block():
    config = XLMConfig(vocab_size=96, emb_dim=32, n_layers=1, n_heads=4)
    with pytest.raises(ValueError, match="outside its only block"):
        ActivationCapture(XLMWithLMHeadModel(config).eval(), [Hookpoint("resid_post", 0)], 64)
    model = tiny_llama()
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    with ActivationCapture(model, [Hookpoint("resid_post", 0)], 64) as capture:
        (value,) = capture.run(INPUT_IDS).values()
    torch.testing.assert_close(model.model.norm(value), model.model(INPUT_IDS).last_hidden_state)


def test_a_part_that_does_not_run_on_every_row():
    def forward(block, hidden_states, **kwargs):
        mid = hidden_states + attention(block, hidden_states, kwargs)
        is_long = hidden_states.shape[1] > 20
        return mid + (mlp(block, mid) if is_long else block.extra(block.post_attention_layernorm(mid)))

    with (
        ActivationCapture(model_of(forward), [Hookpoint("mlp_out", 1)], 64) as capture,
        pytest.raises(ValueError, match="read at mlp, which does not run on rows of 7 tokens"),
    ):
        capture.run(INPUT_IDS)


def test_rows_longer_than_was_proved():
    with (
        ActivationCapture(tiny_llama(), [Hookpoint("mlp_out", 1)], 6) as capture,
        pytest.raises(ValueError, match="rows of 7 tokens are longer than the 6"),
    ):
        capture.run(INPUT_IDS)


def test_contexts_longer_than_the_positions():
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=96, n_positions=64)).eval()
    mpt = MptForCausalLM(MptConfig(d_model=32, n_layers=3, n_heads=4, vocab_size=96, max_seq_len=64)).eval()
    for model in (gpt2, mpt):
        assert ActivationCapture(model, [Hookpoint("mlp_out", 1)], 64).places
        with pytest.raises(ValueError, match=r"has 64 positions.*set harvest.context_length to 64 or less"):
            ActivationCapture(model, [Hookpoint("mlp_out", 1)], 65)
