import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

from hookpoints.blocks import find_blocks
from hookpoints.capture import ActivationCapture
from hookpoints.config import EmbeddedModel
from hookpoints.models import load_model
from hookpoints.sites import SITES, Hookpoint, Site
from tests.models import N_LAYERS, TINY_MODELS, VOCABULARY, tiny_gemma2, tiny_language_model

PARALLEL = {"gpt_neox"}


def _bridge_cache(language_model, folder, input_ids):
    """TransformerLens' own activations; it wants a configuration and a tokenizer that come from a folder."""
    language_model.model.config.quantization_config = None
    language_model.model.config.save_pretrained(folder)
    language_model.tokenizer.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    bridge = TransformerBridge.boot_transformers(str(folder), hf_model=language_model.model, tokenizer=tokenizer)
    with torch.inference_mode():
        return bridge.run_with_cache(input_ids, output_attentions=False)[1]


@pytest.mark.parametrize("name", TINY_MODELS)
def test_every_site_equals_transformer_bridge(name, tmp_path):
    language_model = tiny_language_model(name)
    sites: list[Site] = [site for site in SITES if not (site == "resid_mid" and name in PARALLEL)]
    hookpoints = [Hookpoint(site, layer) for layer in range(N_LAYERS) for site in sites]
    input_ids = torch.randint(3, VOCABULARY, (2, 17), generator=torch.Generator().manual_seed(1))
    with ActivationCapture(language_model.model, hookpoints, 64) as capture, torch.inference_mode():
        ours = capture.run(input_ids)
    cache = _bridge_cache(language_model, tmp_path, input_ids)
    for hookpoint in hookpoints:
        theirs = cache[hookpoint.name]
        difference = (ours[hookpoint.name] - theirs).norm() / theirs.norm()
        assert difference < 1e-4, f"{hookpoint.name}: relative difference {difference:.2e}"


@pytest.mark.parametrize("name", TINY_MODELS)
def test_capture_stops_after_the_deepest_hookpoint(name):
    language_model = tiny_language_model(name)
    ran = []
    for block in find_blocks(language_model.model):
        block.register_forward_pre_hook(lambda *_: ran.append(1))
    with ActivationCapture(language_model.model, [Hookpoint("resid_pre", 0), Hookpoint("mlp_out", 1)], 64) as capture:
        ran.clear()
        captured = capture.run(torch.ones(1, 4, dtype=torch.int64))
    assert len(ran) == 2
    assert list(captured) == ["blocks.0.hook_resid_pre", "blocks.1.hook_mlp_out"]


def test_residual_stream_adds_up():
    """resid_mid = resid_pre + attn_out and resid_post = resid_mid + mlp_out, whatever the architecture calls its parts."""
    for model in (tiny_language_model("llama").model, tiny_gemma2()):
        sites = [Hookpoint(site, 1) for site in SITES]
        with ActivationCapture(model, sites, 64) as capture, torch.inference_mode():
            got = {name.split("hook_")[1]: value for name, value in capture.run(torch.tensor([[5, 6, 7, 8]])).items()}
        torch.testing.assert_close(got["resid_mid"], got["resid_pre"] + got["attn_out"])
        torch.testing.assert_close(got["resid_post"], got["resid_mid"] + got["mlp_out"])


def test_resid_mid_of_a_parallel_block_is_refused():
    with pytest.raises(ValueError, match=r"resid_mid does not exist in GPTNeoXForCausalLM.*parallel.*use resid_pre"):
        ActivationCapture(tiny_language_model("gpt_neox").model, [Hookpoint("resid_mid", 1)], 64)


def test_hooks_are_gone_afterwards():
    model = tiny_language_model().model
    with ActivationCapture(model, [Hookpoint("mlp_out", 1)], 64):
        pass
    assert model(torch.ones(1, 4, dtype=torch.int64)).logits.shape == (1, 4, VOCABULARY)


@pytest.mark.slow
def test_embedded_model_equals_transformer_bridge(tmp_path):
    """The real model, float32, at the demo's hookpoint and its neighbours."""
    language_model = load_model(EmbeddedModel(embedded="smollm2-135m", dtype="float32"))
    assert language_model.n_layers == 30
    hookpoints = [Hookpoint(site, 14) for site in SITES]
    text = "The with statement is used to wrap the execution of a block with methods defined by a context manager."
    input_ids = torch.tensor([language_model.tokenizer(text)["input_ids"]])
    with ActivationCapture(language_model.model, hookpoints, 64) as capture, torch.inference_mode():
        ours = capture.run(input_ids)
    cache = _bridge_cache(language_model, tmp_path, input_ids)
    for hookpoint in hookpoints:
        theirs = cache[hookpoint.name]
        assert (ours[hookpoint.name] - theirs).norm() / theirs.norm() < 1e-4, hookpoint.name
