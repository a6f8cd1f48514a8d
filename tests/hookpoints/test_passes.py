import pytest
import torch

from core.files import read_json, write_json
from hookpoints.capture import ActivationCapture
from hookpoints.models import LanguageModel
from hookpoints.sites import Hookpoint, HookpointConfig
from tests.hookpoints.families import tiny
from tests.hookpoints.test_harvest import HOOK, run
from tests.hookpoints.toys import attention, mlp, model_of
from tests.models import tiny_tokenizer


@pytest.mark.filterwarnings("ignore")  # of transformers, that its kernels are not installed
@pytest.mark.parametrize("family", ["mamba", "gpt_oss", "opt"])
def test_pieces_that_a_model_does_not_keep_apart_stand_in_rows_of_their_own(tmp_path, corpus_file, family):
    """Recurrent, or masks without positions: the rows are those of each piece alone, the same tokens whatever the batches."""
    name = "blocks.1.hook_resid_post"
    model = tiny(family)
    language_model = LanguageModel(model, tiny_tokenizer(), family, "local")
    changes = {
        "hookpoints": [HookpointConfig(site="resid_post", layer=1)],
        "n_tokens": 2048,
        "drop_first_position": False,
    }
    dataset = run(tmp_path / "a", corpus_file, language_model, **changes)
    assert not dataset.view.manifest.capture.packing.is_packed
    others = run(tmp_path / "b", corpus_file, language_model, **changes, batch_tokens=70)
    for index in range(len(dataset.view.shards)):
        tokens, rows = dataset.read_tokens(index), dataset.read(name, index).activations
        assert all(torch.equal(tokens[key], value) for key, value in others.read_tokens(index).items())
        torch.testing.assert_close(rows, others.read(name, index).activations, rtol=1e-3, atol=1e-3)
    tokens, rows = dataset.read_tokens(0), dataset.read(name, 0).activations
    with ActivationCapture(model, [Hookpoint("resid_post", 1)], 64) as capture:
        piece = (tokens["sequence"] == tokens["sequence"][0]) & (tokens["document"] == tokens["document"][0])
        order = tokens["position"][piece].argsort()
        alone = capture.run(tokens["token_ids"][piece][order].long()[None])[name][0]
    torch.testing.assert_close(rows[piece][order], alone, rtol=1e-3, atol=1e-3)


def test_rows_that_depend_on_the_size_of_a_batch_are_refused(tmp_path, corpus_file):
    """An MLP that has room for 100 tokens: no probe is as long, the first shard shows it."""

    def limited(block, hidden_states, **kwargs):
        mid = hidden_states + attention(block, hidden_states, kwargs)
        added = mlp(block, mid).flatten(0, 1).clone()
        added[100:] = 0
        return mid + added.reshape(mid.shape)

    language_model = LanguageModel(model_of(limited), tiny_tokenizer(), "limited", "local")
    changes = {"hookpoints": [HookpointConfig(site="resid_post", layer=1)], "n_tokens": 2048}
    with pytest.raises(
        ValueError, match=r"otherwise in a batch than alone.*Set harvest.batch_tokens to harvest.context_length"
    ):
        run(tmp_path / "a", corpus_file, language_model, **changes, batch_tokens=512)
    assert not list((tmp_path / "a").rglob("shard-*"))
    assert run(tmp_path / "b", corpus_file, language_model, **changes, batch_tokens=32).view.shards


def test_activations_too_large_for_their_storage(tmp_path, corpus_file):
    model = tiny("llama")
    model.get_input_embeddings().get_parameter("weight").data.mul_(1e6)
    language_model = LanguageModel(model, tiny_tokenizer(), "large", "local")
    changes = {"hookpoints": [HookpointConfig(site="resid_post", layer=1)], "n_tokens": 2048}
    with pytest.raises(ValueError, match=r"too large for harvest.dtype: float16.*set it to bfloat16, float32 or int8"):
        run(tmp_path / "a", corpus_file, language_model, **changes, dtype="float16")
    assert not list((tmp_path / "a").rglob("blocks*/shard-*"))
    assert run(tmp_path / "b", corpus_file, language_model, **changes, dtype="int8").view.shards


def test_a_folder_begun_with_another_proof(tmp_path, corpus_file):
    """As another version of transformers might give it."""
    run(tmp_path, corpus_file)
    (tmp_path / "manifest.json").unlink()
    path = tmp_path / "capture.json"
    proof = read_json(path)
    proof["places"][HOOK]["terms"][0]["module"] = "mlp.down_proj"
    write_json(path, proof)
    with pytest.raises(ValueError, match=r"begun with another proof of capture.*set activations to another folder"):
        run(tmp_path, corpus_file)
