"""One flipped bit in any file that a stage reads is found before anything is made of it, and said with the file's name."""

import random
import shutil
from pathlib import Path

import pytest

from tests.pipeline.studies.common import dipole, study

FLIPS = 5
HOOK, SAE = "blocks.1.hook_mlp_out", "blocks.1.hook_mlp_out-gated-32-lambda_0.5-seed_0-steps_12"
ANOTHER_SEED, ANOTHER_HOOK = ["train", "train.seeds=[7]"], ["harvest", "harvest.hookpoints=[{site: attn_out}]"]
MORE_TOKENS, OTHER_EVALUATION = ["harvest", "harvest.n_tokens=6144"], ["eval", "eval.min_fires=4"]


@pytest.fixture(scope="module")
def unfinished(finished, tmp_path_factory, tiny_model_folder, corpus_file):
    """A finished study, and in the same run directory SAEs of 20 steps of which only checkpoints are there."""
    from saes.learner import SAELearner

    folder = tmp_path_factory.mktemp("unfinished")
    shutil.copytree(finished[1], folder / "run")
    path = study(folder, tiny_model_folder, corpus_file)
    real = SAELearner.step_scaled

    def fails(self, x):
        if self.step_number == 17:
            raise RuntimeError("power cut")
        return real(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SAELearner, "step_scaled", fails)
        assert "power cut" in dipole("train", path, "--set", "train.n_steps=20").output
    return path, folder / "run"


@pytest.mark.parametrize(
    ("file", "command"),
    [
        (f"activations/{HOOK}/shard-00001.safetensors", ANOTHER_SEED),
        (f"activations/records/{HOOK}/shard-00002.json", MORE_TOKENS),
        ("activations/records/tokens/shard-00000.json", MORE_TOKENS),
        ("activations/manifest.json", ["report"]),
        ("activations/harvest.json", ["eval"]),
        ("activations/sources.json", ["train"]),
        ("activations/capture.json", ANOTHER_HOOK),
        ("activations/contexts/contexts.json", ANOTHER_HOOK),
        ("activations/contexts/train.bin", ANOTHER_HOOK),
        ("activations/contexts/held_out.bin", ANOTHER_HOOK),
        (f"saes/{SAE}/cfg.json", ["train"]),
        (f"saes/{SAE}/weights.safetensors", OTHER_EVALUATION),
        (f"saes/{SAE}/eval.json", ["eval"]),
        ("eval.csv", ["report"]),
        ("stages.jsonl", ["report"]),
        (f"seconds/{SAE}.jsonl", ["report"]),
        (f"checkpoints/{SAE.replace('12', '20')}.json", ["train", "train.n_steps=20"]),
        (f"checkpoints/{SAE.replace('12', '20')}.?.pt", ["train", "train.n_steps=20"]),
    ],
)
def test_a_flipped_bit_is_found(unfinished, file, command):
    path, run = unfinished
    target = next(run.glob(file))
    whole, chance = target.read_bytes(), random.Random(file)
    for _ in range(FLIPS):
        place = chance.randrange(8 * (len(whole) - 1))  # but for the last byte: the end of a line, say
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        target.write_bytes(damaged)
        result = dipole(command[0], path, *(part for one in command[1:] for part in ("--set", one)))
        target.write_bytes(whole)
        for begun in run.rglob("*attn_out"):  # so that the next trial reads all contexts again
            shutil.rmtree(begun)
        assert result.exit_code == 2, f"bit {place} of {file}: {result.output}"
        assert str(target.name) in result.output or target.parent.name in result.output, result.output
        assert "delete" in result.output or "run dipole" in result.output


def test_a_flipped_bit_of_a_networks_metrics_is_found(tmp_path):
    from tests.pipeline.studies.test_networks import networks

    path = networks(tmp_path)
    overrides = ("--set", "train.methods=[{method: gradient_descent, n_neurons: 4, n_restarts: 1, n_steps: 20}]")
    assert dipole("run", path, *overrides).exit_code == 0
    target = next(Path(tmp_path).glob("run/metrics/*.jsonl"))
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content)
    result = dipole("report", path, *overrides)
    assert result.exit_code == 2
    assert f"{target.name}, line " in result.output
