"""What goes wrong in an SAE study, and what is kept."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from pipeline.run_dir import RunDirectory
from tests.pipeline.studies.common import dipole, study, weights


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model_folder, corpus_file) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("study")
    path = study(folder, tiny_model_folder, corpus_file)
    result = dipole("run", path)
    assert result.exit_code == 0, result.output
    return path, folder / "run"


def test_killed_training_ends_with_the_same_weights(finished, tmp_path, tiny_model_folder, corpus_file):
    """SIGKILL in the middle of training, several times; the weights are bit-identical in the end."""
    _, run = finished
    changes = {"run_dir": str(tmp_path / "run"), "activations": str(run / "activations")}
    path = study(tmp_path, tiny_model_folder, corpus_file, **changes)
    metrics = RunDirectory(tmp_path / "run").metrics_path
    kills, reached = 0, 0
    for target in (7, 60, None):
        with subprocess.Popen([sys.executable, "-m", "pipeline.cli", "train", str(path)]) as process:
            if target is None:
                assert process.wait(timeout=120) == 0
                break
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                reached = len(metrics.read_text().splitlines()) if metrics.exists() else 0
                if reached >= target:
                    process.kill()
                    kills += 1
                    break
                time.sleep(0.001)
    assert kills >= 1
    assert weights(tmp_path / "run") == weights(run)
    lines = pd.read_json(metrics, lines=True)
    assert not lines.duplicated(["sae_id", "step"]).any()


def test_stages_out_of_order(tmp_path, tiny_model_folder, corpus_file):
    path = study(tmp_path, tiny_model_folder, corpus_file)
    for command, message in (
        ("train", "run dipole harvest first"),
        ("eval", "run dipole harvest first"),
        ("report", "run dipole eval first"),
    ):
        result = dipole(command, path)
        assert result.exit_code == 2
        assert message in result.output
    assert dipole("harvest", path).exit_code == 0
    result = dipole("eval", path)
    assert "16 of 16 SAEs are not trained yet" in result.output
    assert not (tmp_path / "run" / "eval.csv").exists()


def test_two_processes_in_one_run_directory(finished):
    path, run = finished
    from pipeline.run_dir import exclusive

    with exclusive(run):
        code = "import sys; from pipeline.cli import main; sys.argv = ['dipole', 'report', sys.argv[1]]; main()"
        result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert f"error: {run} is in use by another process" in result.stderr
    assert "Traceback" not in result.stderr


def test_run_directory_that_cannot_be_written(tmp_path, tiny_model_folder, corpus_file, run_dir):
    (tmp_path / "file").write_text("")
    path = study(tmp_path, tiny_model_folder, corpus_file, run_dir=run_dir.format(file=tmp_path / "file"))
    result = dipole("harvest", path)
    assert result.exit_code == 2
    assert "give a run_dir where you may write" in result.output


def test_corrupted_shard_stops_training(finished, tmp_path, tiny_model_folder, corpus_file):
    _, run = finished
    shutil.copytree(run / "activations", tmp_path / "activations")
    for victim in (tmp_path / "activations" / "blocks.1.hook_mlp_out").glob("*.safetensors"):
        content = bytearray(victim.read_bytes())
        content[-1] ^= 1
        victim.write_bytes(content)
    path = study(tmp_path, tiny_model_folder, corpus_file, activations=str(tmp_path / "activations"))
    result = dipole("train", path)
    assert result.exit_code == 2
    assert "does not match its checksum" in result.output
    assert not list((tmp_path / "run").glob("saes/*/cfg.json"))


def test_diverging_training_is_stopped_and_named(finished, tmp_path, tiny_model_folder, corpus_file):
    _, run = finished
    path = study(tmp_path, tiny_model_folder, corpus_file, activations=str(run / "activations"))
    result = dipole("train", path, "--set", "train.learner.learning_rate=1e30")
    assert result.exit_code == 2
    assert "loss is" in result.output
    assert "blocks.1.hook_mlp_out: shard-0000" in result.output


def test_resid_mid_of_pythia_like_blocks(tmp_path, corpus_file):
    from tests.models import save_tiny_model

    path = study(tmp_path, save_tiny_model(tmp_path / "neox", "gpt_neox"), corpus_file)
    result = dipole("run", path, "--set", "harvest.hookpoints=[{site: resid_mid}]")
    assert result.exit_code == 2
    assert "resid_mid does not exist in GPTNeoX" in result.output
    assert not (tmp_path / "run" / "activations" / "harvest.json").exists()


def test_one_diverging_sae_is_reported_and_the_others_are_kept(
    finished, tmp_path, tiny_model_folder, corpus_file, monkeypatch
):
    """One member's weights are poisoned before its first step."""
    from pipeline.studies.saes import banks

    _, run = finished
    real = banks.make_learner

    def poisoned(study, dataset, spec):
        learner = real(study, dataset, spec)
        if spec.sae_id == "blocks.1.hook_mlp_out-gated-32-lambda_3-seed_1":
            learner.sae.W_dec.data.fill_(float("nan"))
        return learner

    monkeypatch.setattr(banks, "make_learner", poisoned)
    path = study(tmp_path, tiny_model_folder, corpus_file, activations=str(run / "activations"))
    result = dipole("run", path)
    assert result.exit_code == 0, result.output
    assert "train: stopped blocks.1.hook_mlp_out-gated-32-lambda_3-seed_1: loss is nan at step 1" in result.output
    table = pd.read_csv(tmp_path / "run" / "eval.csv")
    assert len(table) == 15
    assert "loss is nan at step 1" in (tmp_path / "run" / "report.html").read_text(encoding="utf8")
    others = {
        name: digest
        for name, digest in weights(run).items()
        if "gated-32-lambda_3-seed_1" not in name or "resid" in name
    }
    assert weights(tmp_path / "run") == others


def test_out_of_memory_names_the_setting_to_lower(finished, tmp_path, tiny_model_folder, corpus_file, monkeypatch):
    from saes.learner import SAELearner

    def full(*_arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    _, run = finished
    monkeypatch.setattr(SAELearner, "step_scaled", full)
    result = dipole("train", study(tmp_path, tiny_model_folder, corpus_file, activations=str(run / "activations")))
    assert result.exit_code == 2
    assert "lower train.bank_size, train.batch_size or d_sae" in result.output
