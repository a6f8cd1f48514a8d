import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hookpoints.capture import ActivationCapture
from hookpoints.config import HarvestConfig, LocalModel
from hookpoints.contexts import ContextStore
from hookpoints.corpus import FilesCorpus
from hookpoints.described import Described
from hookpoints.harvest import harvest, missing_hooks
from hookpoints.rows import decode_rows, encode_rows
from hookpoints.shards import ActivationDataset, shard_path
from hookpoints.sites import Hookpoint, HookpointConfig
from tests.models import D_MODEL, tiny_language_model

SITES = [HookpointConfig(site="resid_post", layer=1), HookpointConfig(site="mlp_out")]
HOOK = "blocks.1.hook_mlp_out"


def settings(**changes) -> HarvestConfig:
    given = {
        "hookpoints": SITES,
        "n_tokens": 4096,
        "context_length": 32,
        "batch_tokens": 128,
        "shard_tokens": 1024,
        "held_out_fraction": 0.25,
        "dtype": "float32",
        "norm_outlier_factor": None,
    }
    return HarvestConfig(**{**given, **changes})


def run(folder: Path, corpus_file: Path, language_model=None, **changes) -> ActivationDataset:
    study = Described(LocalModel(local="tiny"), FilesCorpus(files=[str(corpus_file)]), settings(**changes))
    for _ in harvest(language_model or tiny_language_model(), study, folder, {"python": "3"}):
        pass
    return ActivationDataset(folder)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_row_is_the_models_activation_of_its_token(tmp_path, corpus_file):
    dataset = run(tmp_path, corpus_file)
    language_model = tiny_language_model()
    for split in ("train", "held_out"):
        for index in dataset.shards(split):
            tokens = dataset.read_tokens(index)
            rows = dataset.read(HOOK, index).activations
            first, last = int(tokens["sequence"].min()), int(tokens["sequence"].max()) + 1
            contexts = ContextStore(tmp_path / "contexts").read(split, first, last)
            with ActivationCapture(language_model.model, [Hookpoint("mlp_out", 1)], 32) as capture:
                expected = capture.run(contexts.input_ids, contexts.position_ids)[HOOK]
            ids = contexts.input_ids[tokens["sequence"].long() - first]
            flat_position = _flat_positions(contexts, tokens, first)
            assert torch.equal(ids[torch.arange(len(ids)), flat_position], tokens["token_ids"].long())
            chosen = expected[tokens["sequence"].long() - first, flat_position]
            torch.testing.assert_close(rows, chosen, rtol=1e-4, atol=1e-5)


def _flat_positions(contexts, tokens, first):
    """Place in the context of each row: the token of its document at its position (a piece is unique there)."""
    sequence = tokens["sequence"].long() - first
    matches = (contexts.position_ids[sequence] == tokens["position"][:, None].long()) & (
        contexts.documents[sequence] == tokens["document"][:, None]
    )
    assert (matches.sum(dim=1) == 1).all()
    return matches.int().argmax(dim=1)


def test_filters_and_counts(tmp_path, corpus_file):
    dataset = run(tmp_path / "kept", corpus_file)
    manifest = dataset.view
    positions = torch.cat([dataset.read_tokens(index)["position"] for index in range(len(manifest.shards))])
    assert int(positions.min()) == 1
    total = manifest.n_tokens
    assert sum(manifest.n_rows.values()) + sum(dict(manifest.n_dropped).values()) == total
    everything = run(
        tmp_path / "all", corpus_file, drop_first_position=False, prepend_bos=True, drop_special_tokens=False
    )
    assert sum(everything.view.n_rows.values()) == everything.view.n_tokens
    with_bos = run(tmp_path / "bos", corpus_file, prepend_bos=True, drop_first_position=False)
    ids = torch.cat([with_bos.read_tokens(index)["token_ids"] for index in range(len(with_bos.view.shards))])
    assert with_bos.view.n_dropped.special_tokens > 0
    assert not torch.isin(ids, torch.tensor([0, 1, 2])).any()


def test_statistics_are_those_of_the_kept_training_rows(tmp_path, corpus_file):
    dataset = run(tmp_path, corpus_file, norm_outlier_factor=1.2)
    kept, n_outliers = [], 0
    for index in dataset.shards("train"):
        rows = dataset.read(HOOK, index)
        kept.append(rows.activations[~rows.is_outlier])
        n_outliers += int(rows.is_outlier.sum())
    assert n_outliers > 0
    x = torch.cat(kept).double()
    statistics = dataset.statistics(HOOK)
    torch.testing.assert_close(statistics.mean, x.mean(dim=0))
    hook = dataset.view.hooks[HOOK]
    assert hook.mean_norm == pytest.approx(float(x.norm(dim=1).mean()), rel=1e-6)
    assert hook.mean_squared_norm == pytest.approx(float(x.pow(2).sum(dim=1).mean()), rel=1e-6)
    spread = (x - x.mean(dim=0)).pow(2).sum(dim=1).mean()
    assert statistics.mean_squared_centred_norm == pytest.approx(float(spread), rel=1e-6)
    assert hook.mean_energy_fraction == pytest.approx(float(x.mean(dim=0).norm() ** 2 / x.pow(2).sum(dim=1).mean()))
    first = dataset.read(HOOK, 0).activations.norm(dim=1)
    assert hook.norm_bound == pytest.approx(1.2 * float(first.median()))
    assert hook.norm_gap is None
    assert float(spread) * statistics.scale**2 == pytest.approx(D_MODEL)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "int8"])
def test_storage_error_is_measured(tmp_path, corpus_file, dtype):
    exact = run(tmp_path / "float32", corpus_file)
    stored = run(tmp_path / dtype, corpus_file, dtype=dtype)
    n_shards = len(exact.view.shards)
    x = torch.cat([exact.read(HOOK, index).activations for index in range(n_shards)]).double()
    y = torch.cat([stored.read(HOOK, index).activations for index in range(n_shards)]).double()
    error = float((x - y).norm() / x.norm())
    assert stored.view.hooks[HOOK].storage_relative_error == pytest.approx(error, rel=1e-4, abs=1e-12)
    assert error < {"float32": 1e-12, "float16": 1e-3, "bfloat16": 5e-3, "int8": 1e-2}[dtype]


def test_int8_rows_of_zeros_stay_zero():
    assert torch.equal(decode_rows(encode_rows(torch.zeros(2, 3), "int8")), torch.zeros(2, 3))


def test_rows_are_shuffled(tmp_path, corpus_file):
    sequence = run(tmp_path, corpus_file).read_tokens(0)["sequence"]
    assert not torch.equal(sequence, sequence.sort().values)


SCRIPT = """
import sys
from pathlib import Path
from tests.hookpoints.test_harvest import run
from tests.models import tiny_language_model
language_model = tiny_language_model()
print("ready", flush=True)
run(Path(sys.argv[1]), Path(sys.argv[2]), language_model)
"""


def test_killed_and_resumed_is_byte_identical(tmp_path, corpus_file):
    """SIGKILL in the middle, then one run to the end; every byte is compared. Every single rename is in the test below."""
    run(tmp_path / "whole", corpus_file)
    folder = tmp_path / "killed"
    kills = 0
    for patience in (0.05, None):
        command = [sys.executable, "-c", SCRIPT, str(folder), str(corpus_file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            if patience is None:
                assert process.wait(timeout=120) == 0
            else:
                time.sleep(patience)
                kills += process.poll() is None
                process.kill()
    assert kills >= 1
    assert digest(folder) == digest(tmp_path / "whole")


def test_resume_after_every_single_file(tmp_path, corpus_file, monkeypatch):
    """Die at each of the renames in turn: what is there is whole, and the end is the same."""
    run(tmp_path / "whole", corpus_file)
    expected = digest(tmp_path / "whole")
    folder = tmp_path / "dying"
    real_replace = os.replace

    class Died(BaseException):
        pass

    deaths = 0
    while True:
        allowed = [1 + deaths]

        def replace(source, target, allowed=allowed):
            if allowed[0] == 0:
                raise Died
            allowed[0] -= 1
            real_replace(source, target)

        monkeypatch.setattr(os, "replace", replace)
        try:
            run(folder, corpus_file)
            break
        except Died:
            deaths += 1
    assert deaths > 3
    assert digest(folder) == expected


def test_only_what_is_missing_is_made(tmp_path, corpus_file):
    dataset = run(tmp_path, corpus_file)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*.safetensors")}
    victim = shard_path(tmp_path, HOOK, 1)
    whole = victim.read_bytes()
    victim.unlink()
    assert missing_hooks(tmp_path, settings()) == [HOOK]
    run(tmp_path, corpus_file)
    assert victim.read_bytes() == whole
    remade = {path for path, stamp in before.items() if path.stat().st_mtime_ns != stamp}
    assert {path.name for path in remade} == {victim.name}
    assert len(dataset.view.shards) > 2


def test_truncated_shard(tmp_path, corpus_file):
    run(tmp_path, corpus_file)
    victim = shard_path(tmp_path, HOOK, 0)
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"shard-00000.*checksum.*cut off.*run dipole harvest again"):
        ActivationDataset(tmp_path).read(HOOK, 0)
    run(tmp_path, corpus_file)
    ActivationDataset(tmp_path).read(HOOK, 0)


def test_corrupted_shard(tmp_path, corpus_file):
    run(tmp_path, corpus_file)
    victim = shard_path(tmp_path, HOOK, 0)
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    with pytest.raises(ValueError, match="does not match the checksum"):
        ActivationDataset(tmp_path).read(HOOK, 0)


def test_shard_of_another_model(tmp_path, corpus_file):
    run(tmp_path / "a", corpus_file)
    run(tmp_path / "b", corpus_file, tiny_language_model(seed=1))
    shard_path(tmp_path / "a", HOOK, 0).write_bytes(shard_path(tmp_path / "b", HOOK, 0).read_bytes())
    with pytest.raises(ValueError, match="damaged or replaced"):
        ActivationDataset(tmp_path / "a").read(HOOK, 0)


def test_harvest_of_another_model_into_the_same_folder(tmp_path, corpus_file):
    run(tmp_path, corpus_file)
    before = digest(tmp_path)
    with pytest.raises(ValueError, match=r"(?s)holds activations of another harvest.*model.weights: there "):
        run(tmp_path, corpus_file, tiny_language_model(seed=1))
    assert digest(tmp_path) == before


def test_nan_in_activations(tmp_path, corpus_file):
    language_model = tiny_language_model()
    language_model.model.get_parameter("model.layers.1.mlp.down_proj.weight")[3, 3] = float("nan")
    with pytest.raises(ValueError, match=r"stream of LlamaForCausalLM holds NaN or infinity at block 1.*model.dtype"):
        run(tmp_path, corpus_file, language_model)
    assert not list(tmp_path.rglob("records/*"))


def test_disk_too_small(tmp_path, corpus_file, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"needs \d+ MB more in .* and 0 MB are free; lower harvest.n_tokens"):
        run(tmp_path / "new", corpus_file)
    assert not (tmp_path / "new").exists()


def test_layer_out_of_range(tmp_path, corpus_file):
    with pytest.raises(
        ValueError, match=r"mlp_out at layer 7: the model has 3 blocks; give a layer from 0 to 2, or mid"
    ):
        run(tmp_path, corpus_file, hookpoints=[HookpointConfig(site="mlp_out", layer=7)])


def test_no_harvest(tmp_path):
    with pytest.raises(ValueError, match="run dipole harvest first"):
        ActivationDataset(tmp_path)


def test_unknown_hook(tmp_path, corpus_file):
    with pytest.raises(
        ValueError, match=r"holds no blocks.0.hook_attn_out; it holds blocks.1.hook_resid_post, blocks.1"
    ):
        run(tmp_path, corpus_file).d_in("blocks.0.hook_attn_out")


def test_rows_of_another_width(tmp_path, corpus_file):
    dataset = run(tmp_path, corpus_file)
    path = shard_path(tmp_path, HOOK, 0)
    stored = load_file(path)
    stored["activations"] = stored["activations"][:, :8].contiguous()
    save_file(stored, path)
    dataset._verified.add((HOOK, 0))  # as if its checksum had been right
    with pytest.raises(ValueError, match=r"width 8, the manifest says 32.*another model"):
        dataset.read(HOOK, 0)
