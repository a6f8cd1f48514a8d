import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, T5Config

from core.devices import resolve_device, resolve_dtype
from hookpoints.capture import ActivationCapture
from hookpoints.config import EmbeddedModel, LocalModel
from hookpoints.contents import weights_hash
from hookpoints.embedded import _gguf_path, embedded_folder
from hookpoints.models import load_model, model_files, model_shape
from hookpoints.packing import prove_packing
from hookpoints.probe import probe_tokens
from hookpoints.sites import SITES, Hookpoint, HookpointConfig, middle_layer, parse_hook_name, resolve_hookpoint
from tests.models import D_MODEL, N_LAYERS, tiny_language_model, tiny_tokenizer


def test_local_model(tiny_model_folder):
    config = LocalModel(local=str(tiny_model_folder), dtype="float32", device="cpu")
    loaded = load_model(config)
    assert weights_hash(loaded) == weights_hash(tiny_language_model())
    assert weights_hash(loaded) != weights_hash(tiny_language_model(seed=1))
    shape = model_shape(config)
    assert (shape.n_layers, shape.d_model) == (N_LAYERS, D_MODEL)
    assert shape.n_params == sum(parameter.numel() for parameter in loaded.model.parameters())


def test_folder_without_a_model(tmp_path):
    with pytest.raises(
        ValueError, match=r"neither a folder with a config.json in it.*nor a GGUF file.*for a Hub id use hub:"
    ):
        load_model(LocalModel(local=str(tmp_path)))


def test_a_gguf_file_among_several(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"holds several GGUF files; give one: .*a\.gguf, .*b\.gguf"):
        load_model(LocalModel(local=str(tmp_path)))


@pytest.mark.slow
def test_the_embedded_model_is_what_its_gguf_file_holds():
    """As converted once, as a local file and as a local folder."""
    file = _gguf_path()
    converted = weights_hash(load_model(EmbeddedModel(embedded="smollm2-135m", dtype="float32")))
    for path in (file, file.parent):
        loaded = load_model(LocalModel(local=str(path), dtype="float32"))
        assert weights_hash(loaded) == converted
        assert model_files(LocalModel(local=str(path)))[0] == file


@pytest.mark.slow
def test_the_embedded_model_is_converted_where_it_may_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.prefix", str(tmp_path / "no" / "such"))
    (tmp_path / "no").write_text("a file, so nothing can be made below it")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = embedded_folder()
    assert folder.is_relative_to(tmp_path / "cache")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert embedded_folder() == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def with_settings(source: Path, target: Path, **settings) -> LocalModel:
    """A copy of a model folder whose config.json says something else."""
    shutil.copytree(source, target)
    path = target / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return LocalModel(local=str(target), dtype="float32", device="cpu")


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("gptq", {"bits": 4, "group_size": 128, "desc_act": False}),
        ("awq", {"bits": 4, "group_size": 128, "zero_point": True}),
        ("bitsandbytes", {"load_in_4bit": True}),
    ],
)
def test_quantised_weights_without_their_package(tiny_model_folder, tmp_path, method, settings):
    config = with_settings(
        tiny_model_folder, tmp_path / method, quantization_config={"quant_method": method, **settings}
    )
    with pytest.raises(ValueError, match=r"needs a package that is not installed: .*pip install.*unquantised weights"):
        load_model(config)


def test_a_model_whose_files_lack_parameters_is_refused(tiny_model_folder, tmp_path):
    """transformers would fill them with random numbers."""
    config = with_settings(tiny_model_folder, tmp_path / "deeper", num_hidden_layers=N_LAYERS + 1)
    with pytest.raises(ValueError, match=rf"lacks \d+ of its parameters, model.layers.{N_LAYERS}\..* for one"):
        load_model(config)


def test_an_encoder_decoder_is_refused_in_a_sentence(tmp_path):
    T5Config(d_model=32, num_layers=2, num_heads=2, d_ff=32, d_kv=8, vocab_size=96).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    for read in (load_model, model_shape):
        with pytest.raises(
            ValueError, match=r"no causal language model .*a T5Config\): .*not encoder-decoders"
        ) as error:
            read(LocalModel(local=str(tmp_path)))
        assert len(str(error.value)) < 300


def test_the_text_blocks_of_a_model_that_sees(tmp_path):
    """A vision tower with as many blocks as the text model comes first among its modules."""
    text = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 8}
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    special: dict[str, Any] = {
        "image_token_index": 90,
        "boi_token_index": 91,
        "eoi_token_index": 92,
        "mm_tokens_per_image": 4,
    }
    config = Gemma3Config(
        text_config={**shape, **text, "num_key_value_heads": 2, "vocab_size": 96, "pad_token_id": 0, "bos_token_id": 1},
        vision_config={**shape, "image_size": 28, "patch_size": 14},
        **special,
    )
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = load_model(LocalModel(local=str(tmp_path), dtype="float32", device="cpu"))
    assert (loaded.n_layers, loaded.d_model) == (2, 32)
    assert 90 not in probe_tokens(loaded.model, 1000)
    hookpoints = [Hookpoint(site, 1) for site in SITES]
    with ActivationCapture(loaded.model, hookpoints, 64) as capture:
        assert prove_packing(capture).is_packed
        got = {name.split("hook_")[1]: value for name, value in capture.run(torch.tensor([[5, 6, 7, 8]])).items()}
    torch.testing.assert_close(got["resid_mid"], got["resid_pre"] + got["attn_out"])
    torch.testing.assert_close(got["resid_post"], got["resid_mid"] + got["mlp_out"])


def test_model_code_is_not_run_unless_asked(tiny_model_folder, tmp_path):
    folder = tmp_path / "remote"
    shutil.copytree(tiny_model_folder, folder)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "model_type": "their_own",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ValueError, match=r"ships its own Python code.*set model.trust_remote_code: true"):
        load_model(LocalModel(local=str(folder)))
    assert not (tmp_path / "ran").exists()


def test_not_enough_memory(tiny_model_folder, monkeypatch):
    import psutil

    class Full:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", Full)
    with pytest.raises(MemoryError, match=r"needs .* GB in torch.float32 and cpu has 0.0 GB free; use a smaller model"):
        load_model(LocalModel(local=str(tiny_model_folder), dtype="float32", device="cpu"))


def test_dtype_auto_is_a_type_the_hardware_computes():
    device = torch.device("cpu")
    has_native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert resolve_dtype("auto", device) == (torch.bfloat16 if has_native else torch.float32)
    assert resolve_dtype("float16", device) == torch.float16


@pytest.mark.parametrize("device", ["gpu", "cuda:99" if not torch.cuda.is_available() else "nowhere"])
def test_unknown_device(device):
    with pytest.raises(ValueError, match=device):
        resolve_device(device)


def test_embedded_model_absent(monkeypatch):
    monkeypatch.setattr("hookpoints.embedded._PACKAGE", "no-such-package")
    with pytest.raises(ValueError, match=r"needs the package no-such-package; run make install"):
        load_model(EmbeddedModel(embedded="smollm2-135m"))


def test_hook_names():
    assert Hookpoint("mlp_out", 14).name == "blocks.14.hook_mlp_out"
    assert parse_hook_name("blocks.14.hook_resid_post") == Hookpoint("resid_post", 14)
    with pytest.raises(ValueError, match="is no hook name"):
        parse_hook_name("blocks.x.hook_resid_post")
    assert [middle_layer(n) for n in (30, 16, 36, 1)] == [14, 7, 17, 0]
    assert resolve_hookpoint(HookpointConfig(site="mlp_out"), 30) == Hookpoint("mlp_out", 14)
