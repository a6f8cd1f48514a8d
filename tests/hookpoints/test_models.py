import pytest
import torch

from core.devices import resolve_device, resolve_dtype
from hookpoints.config import EmbeddedModel, LocalModel
from hookpoints.models import content_hash, load_model, model_shape
from hookpoints.sites import Hookpoint, HookpointConfig, middle_layer, parse_hook_name, resolve_hookpoint
from tests.models import D_MODEL, N_LAYERS, tiny_language_model


def test_local_model(tiny_model_folder):
    config = LocalModel(local=str(tiny_model_folder), dtype="float32", device="cpu")
    loaded = load_model(config)
    assert content_hash(loaded) == content_hash(tiny_language_model())
    assert content_hash(loaded) != content_hash(tiny_language_model(seed=1))
    shape = model_shape(config)
    assert (shape.n_layers, shape.d_model) == (N_LAYERS, D_MODEL)
    assert shape.n_params == sum(parameter.numel() for parameter in loaded.model.parameters())


def test_folder_without_a_model(tmp_path):
    with pytest.raises(
        ValueError, match=r"neither a folder with a config.json in it.*nor a GGUF file.*for a Hub id use hub:"
    ):
        load_model(LocalModel(local=str(tmp_path)))


def test_model_code_is_not_run_unless_asked(tiny_model_folder, tmp_path):
    import json
    import shutil

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
