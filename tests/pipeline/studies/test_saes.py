"""The whole pipeline on a tiny real model, through the command line's own entry points."""

import subprocess
import sys
import time

import pandas as pd
import torch
import yaml

from core.files import read_lines
from saes.io import load_sae
from tests.pipeline.studies.common import dipole, study, weights

COMMANDS = ["harvest", "train", "eval", "report"]


def test_run_leaves_every_artifact(finished):
    _, run = finished
    for name in ("config.yaml", "stages.jsonl", "eval.csv", "verdicts.csv", "report.html"):
        assert (run / name).stat().st_size > 0, name
    assert [line["stage"] for line in read_lines(run / "stages.jsonl")] == COMMANDS
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
        "shrinkage",
        "r_squared_without_top_1_percent",
        "top_1_percent_share_of_sst",
        "n_tokens",
        "n_outliers",
    ]
    assert len(table) == 16
    assert table["r_squared"].between(-1, 1).all()
    assert set(table["hook_name"]) == {"blocks.1.hook_mlp_out", "blocks.0.hook_resid_post"}
    for folder in ("metrics", "seconds"):
        logs = sorted((run / folder).glob("*.jsonl"))
        assert [path.stem for path in logs] == sorted(table["sae_id"])
        assert [[line["step"] for line in read_lines(path)] for path in logs] == [list(range(1, 13))] * 16
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
