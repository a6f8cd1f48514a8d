"""The whole pipeline on a tiny real model, through the command line's own entry points."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

from core.files import sha256_file
from pipeline.cli import app
from pipeline.run_dir import RunDirectory
from saes.io import load_sae

COMMANDS = ["harvest", "train", "eval", "report"]


def study(tmp_path: Path, model: Path, corpus: Path, **changes) -> Path:
    config = {
        "name": "tiny",
        "run_dir": str(tmp_path / "run"),
        "model": {"local": str(model), "dtype": "float32"},
        "corpus": {"files": [str(corpus)]},
        "harvest": {
            "hookpoints": [{"site": "mlp_out"}, {"site": "resid_post", "layer": 0}],
            "n_tokens": 4096,
            "context_length": 32,
            "batch_tokens": 256,
            "shard_tokens": 1024,
            "held_out_fraction": 0.2,
        },
        "train": {
            "n_steps": 12,
            "batch_size": 128,
            "seeds": [0, 1],
            "checkpoint_every": 5,
            "log_every": 1,
            "saes": [
                {"architecture": "gated", "d_sae": 32, "sparsity_coefficients": [0.5, 3.0]},
                {"architecture": "sa_gated", "d_sae": 16, "sparsity_coefficients": [0.5, 3.0]},
            ],
            "learner": {"init_l0": 6, "dead_window": 1000},
        },
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**config, **changes}, sort_keys=False))
    return path


def dipole(*arguments: str | Path):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model_folder, corpus_file) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("study")
    path = study(folder, tiny_model_folder, corpus_file)
    result = dipole("run", path)
    assert result.exit_code == 0, result.output
    return path, folder / "run"


def weights(run: Path) -> dict[str, str]:
    return {path.parent.name: sha256_file(path) for path in sorted(run.glob("saes/*/weights.safetensors"))}


def test_run_leaves_every_artifact(finished):
    _, run = finished
    for name in (
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "stages.jsonl",
        "eval.csv",
        "verdicts.csv",
        "report.html",
    ):
        assert (run / name).stat().st_size > 0, name
    assert [json.loads(line)["stage"] for line in (run / "stages.jsonl").read_text().splitlines()] == COMMANDS
    table = pd.read_csv(run / "eval.csv")
    assert list(table.columns[:16]) == [
        "sae_id",
        "architecture",
        "d_in",
        "d_sae",
        "n_params",
        "hook_name",
        "seed",
        "sparsity_coefficient",
        "l0",
        "r_squared",
        "r_squared_all_rows",
        "dead_fraction",
        "bipolar_fraction",
        "polarity_balance",
        "antipodal_fraction",
        "shrinkage",
    ]
    assert len(table) == 16
    assert table["r_squared"].between(-1, 1).all()
    assert set(table["hook_name"]) == {"blocks.1.hook_mlp_out", "blocks.0.hook_resid_post"}
    metrics = pd.read_json(run / "metrics.jsonl", lines=True)
    assert metrics.groupby("sae_id")["step"].apply(list).tolist() == [list(range(1, 13))] * 16
    assert not list(run.rglob("*.partial"))
    assert not list(run.glob("checkpoints/*"))


def test_loaded_sae_works_on_raw_activations(finished):
    _, run = finished
    table = pd.read_csv(run / "eval.csv")
    sae = load_sae(run / "saes" / table["sae_id"][0])
    x = torch.randn(5, 32)
    assert sae.decode(sae.encode(x)).shape == (5, 32)
    assert torch.equal(sae(x), sae.decode(sae.encode(x)))


def test_running_again_changes_nothing(finished):
    path, run = finished
    before = weights(run)
    stamps = {file: file.stat().st_mtime_ns for file in run.glob("saes/*/*")}
    result = dipole("run", path)
    assert result.exit_code == 0
    assert "report:" in result.output
    assert weights(run) == before
    assert stamps == {file: file.stat().st_mtime_ns for file in run.glob("saes/*/*")}


def test_summary_is_on_standard_output(finished):
    path, _ = finished
    result = dipole("report", path)
    assert "hookpoint" in result.stdout
    assert "SA-GSAE 16 against Gated 32" in result.stdout
    assert result.stdout.rstrip().endswith("report.html")


def test_another_study_in_the_same_run_directory(finished):
    path, run = finished
    before = sorted(run.rglob("*"))
    result = dipole("run", path, "--set", "train.n_steps=13", "--set", "train.saes.0.d_sae=64")
    assert result.exit_code == 2
    assert "train.n_steps: there 12, now 13" in result.output
    assert "train.saes.0.d_sae: there 32, now 64" in result.output
    assert sorted(run.rglob("*")) == before


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


@pytest.mark.parametrize("run_dir", ["/proc/dipole", "{file}/run"])
def test_run_directory_that_cannot_be_written(tmp_path, tiny_model_folder, corpus_file, run_dir):
    (tmp_path / "file").write_text("")
    path = study(tmp_path, tiny_model_folder, corpus_file, run_dir=run_dir.format(file=tmp_path / "file"))
    result = dipole("harvest", path)
    assert result.exit_code == 2
    assert "give a run_dir where you may write" in result.output


def test_shared_activations_must_be_the_ones_described(finished, tmp_path, tiny_model_folder, corpus_file):
    _, run = finished
    path = study(tmp_path, tiny_model_folder, corpus_file, activations=str(run / "activations"))
    assert dipole("harvest", path).exit_code == 0
    result = dipole("harvest", path, "--set", "harvest.n_tokens=2048", "--set", f"run_dir={tmp_path / 'other'}")
    assert result.exit_code == 2
    assert "holds activations of another harvest:\n  harvest.n_tokens: there 4096, now 2048\n" in result.output


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


def test_config_command_shows_costs(finished):
    path, _ = finished
    result = dipole("config", path)
    assert result.exit_code == 0
    parsed = yaml.safe_load(result.stdout)
    assert parsed["name"] == "tiny"
    assert parsed["train"]["learner"]["sparsity_warmup_fraction"] == 0.1
    costs = dict(line[2:].split(":", 1) for line in result.stdout.splitlines() if line.startswith("# "))
    n_params = 4 * 2 * (2 * 32 * 32 + 32 + 3 * 32) + 4 * 2 * (2 * 32 * 16 + 32 + 3 * 16)
    assert costs["SAEs"].strip() == f"16, {n_params / 1e6:,.1f} M parameters in all, {4 * n_params / 1e9:,.2f} GB"
    assert costs["steps"].strip() == "192 (12 per SAE), 0.5 passes over the training rows"
    assert costs["tokens"].strip() == "4,096"


def test_help_is_instant_and_lists_every_command():
    started = time.monotonic()
    shown = subprocess.run([sys.executable, "-m", "pipeline.cli", "--help"], capture_output=True, text=True, check=True)
    help_seconds = time.monotonic() - started
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    assert all(command in shown.stdout for command in [*COMMANDS, "run", "config"])
    assert help_seconds < time.monotonic() - started, "dipole --help must not import torch"


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


def test_a_study_can_steer_to_an_l0(finished, tmp_path, tiny_model_folder, corpus_file):
    _, run = finished
    path = study(tmp_path, tiny_model_folder, corpus_file, activations=str(run / "activations"))
    result = dipole(
        "train",
        path,
        "--set",
        "train.saes=[{architecture: gated, d_sae: 32, sparsity_coefficients: [1.0], target_l0: 30000}]",
    )
    assert result.exit_code == 0, result.output
    assert "not 30000; give more steps or a nearer lambda" in result.output
