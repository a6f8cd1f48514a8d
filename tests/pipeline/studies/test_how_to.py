"""The code of the how-to pages, run on a tiny study: only names of files, hooks and models are replaced."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hookpoints.rows import read_numpy

PAGES = Path(__file__).parents[3] / "docs" / "how-to"
SAE_ID = "blocks.1.hook_mlp_out-sa_gated-16-tying_full-lambda_0.5-seed_0-steps_12"


def blocks(page: str, run: Path, model: Path) -> list[str]:
    """Python blocks of a page, about the study in ``run``."""
    text = (PAGES / page).read_text(encoding="utf8")
    text = re.sub(r"runs/demo/saes/[\w.-]+", str(run / "saes" / SAE_ID), text)
    replaced = {
        "runs/demo": str(run),
        "blocks.14.": "blocks.1.",
        "layers[14]": "layers[1]",
        "import EmbeddedModel": "import LocalModel",
        'EmbeddedModel(embedded="smollm2-135m")': f'LocalModel(local="{model}", dtype="float32", device="cpu")',
        "The with statement wraps the execution of a block.": "w1 w2 w3 w4 w5",
        "The file": "w7 w8",
    }
    for old, new in replaced.items():
        text = text.replace(old, new)
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_shards(finished, tiny_model_folder, capsys):
    found: dict[str, Any] = {}
    for block in blocks("shards.md", finished[1], tiny_model_folder):
        exec(block, found)  # the page itself is what is tested
    assert found["rows"].shape[1] == 32
    assert len(found["tokens"]) == len(found["rows"])
    assert "position" in capsys.readouterr().out


def test_latents_and_steering(finished, tiny_model_folder, capsys):
    found: dict[str, Any] = {}
    for block in blocks("use-an-sae.md", finished[1], tiny_model_folder)[:2]:
        exec(block, found)
    sae, steer, part, inputs = found["sae"], found["steer"], found["part"], found["inputs"]
    assert found["latents"].shape == (1, 5, 16)
    x = found["seen"]["x"]
    steered = steer(3, -2.0)(part, (), x)
    change = -2.0 - sae.encode(x)[..., 3]
    torch.testing.assert_close(steered, x + change[..., None] * sae.W_dec[3])
    torch.testing.assert_close(sae.decode(sae.encode(x)) + steered - x, sae.decode(_with(sae.encode(x), 3, -2.0)))
    handle = part.register_forward_hook(steer(3, 50.0))
    with torch.no_grad():
        moved = found["model"](**inputs).logits
    handle.remove()
    with torch.no_grad():
        assert not torch.allclose(moved, found["model"](**inputs).logits)
    assert capsys.readouterr().out.count("\n") >= 4


def _with(latents: torch.Tensor, latent: int, value: float) -> torch.Tensor:
    changed = latents.clone()
    changed[..., latent] = value
    return changed


@pytest.mark.interop
@pytest.mark.filterwarnings("ignore")
def test_an_sae_opens_in_saelens(finished, tiny_model_folder):
    from sae_lens import SAE  # pyright: ignore[reportMissingImports]

    found: dict[str, Any] = {}
    for number, block in enumerate(blocks("use-an-sae.md", finished[1], tiny_model_folder)):
        if number != 1:
            exec(block, found)
    sae, x = found["sae"], torch.randn(200, 32, generator=torch.Generator().manual_seed(0))
    theirs = SAE.load_from_disk(str(finished[1] / "saelens"), device="cpu")
    ours, positive, negative = sae.encode(x), *theirs.encode(x).chunk(2, dim=-1)
    torch.testing.assert_close(positive - negative, ours, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(theirs(x), sae(x), rtol=1e-4, atol=1e-5)
    assert theirs.cfg.metadata.hook_name == "blocks.1.hook_mlp_out"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int8])
def test_numpy_reads_what_torch_wrote(tmp_path, dtype):
    from core.tensors import write_tensors

    values = (torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) * 30).to(dtype)
    path = tmp_path / "shard.safetensors"
    write_tensors(path, {"activations": values, "outliers": torch.tensor([1, 4]), "none": torch.zeros(0, 3)})
    read = read_numpy(path)
    assert read["activations"].dtype == (np.float32 if dtype == torch.bfloat16 else values.numpy().dtype)
    np.testing.assert_array_equal(
        read["activations"].astype(np.float64), load_file(path)["activations"].double().numpy()
    )
    assert read["outliers"].tolist() == [1, 4]
    assert read["none"].shape == (0, 3)
