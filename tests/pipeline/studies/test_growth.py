"""What may be shared, what may grow: a finished study is changed, what is there is kept, and the rest is made or refused."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from core.files import read_json, sha256_file
from hookpoints.shards import ActivationDataset
from tests.pipeline.studies.common import dipole, study, weights

HOOKS = "harvest.hookpoints=[{site: mlp_out}, {site: resid_post, layer: 0}, {site: attn_out}]"


@pytest.fixture
def grown(finished, tmp_path):
    """A copy of the finished study, free to be changed."""
    path, run = finished
    shutil.copytree(run, tmp_path / "run")
    copy = tmp_path / "study.yaml"
    copy.write_text(path.read_text().replace(str(run), str(tmp_path / "run")))
    return copy, tmp_path / "run"


def stamps(run: Path, pattern: str) -> dict[Path, tuple[int, str]]:
    return {path: (path.stat().st_mtime_ns, sha256_file(path)) for path in sorted(run.glob(pattern)) if path.is_file()}


def sets(*overrides: str) -> list[str]:
    return [part for one in overrides for part in ("--set", one)]


@pytest.mark.parametrize(
    ("overrides", "n_new", "n_shown"),
    [
        (["train.seeds=[0, 1, 2]"], 8, 24),
        (["train.saes.0.sparsity_coefficients=[0.5, 3.0, 9.0]"], 4, 20),
        (["train.saes.0.d_sae=48"], 8, 16),
        ([HOOKS], 8, 24),
        (["train.n_steps=15"], 16, 16),
        (["train.seeds=[1]"], 0, 8),
        (
            ["train.log_every=3", "train.checkpoint_every=2", "train.bank_size=3", "harvest.batch_tokens=64", "name=b"],
            0,
            16,
        ),
        (["eval.min_fires=3"], 0, 16),
    ],
)
def test_a_finished_study_grows(grown, overrides, n_new, n_shown):
    """The new ones are made, in any company; the old ones are not touched; the table is that of the study as given."""
    path, run = grown
    before = stamps(run, "saes/*/[cw]*") | stamps(run, "activations/**/*.safetensors")
    result = dipole("run", path, *sets(*overrides))
    assert result.exit_code == 0, result.output
    assert f"train: {n_new} of {n_shown} SAEs to make" in result.output
    after = stamps(run, "saes/*/[cw]*") | stamps(run, "activations/**/*.safetensors")
    assert before.items() <= after.items()
    assert len(list(run.glob("saes/*/cfg.json"))) == 16 + n_new
    assert len(pd.read_csv(run / "eval.csv")) == n_shown
    assert ("SAEs of the run directory are no part of this study" in result.output) == (16 + n_new > n_shown)
    assert ("no part of this study" in (run / "report.html").read_text()) == (16 + n_new > n_shown)


def test_what_is_added_is_what_a_study_of_its_own_would_make(grown, tmp_path, tiny_model_folder, corpus_file):
    """A hookpoint, a seed and a lambda more: weights and shards are those of a study that had them from the start."""
    path, run = grown
    changes = sets(HOOKS, "train.seeds=[0, 1, 2]", "train.saes.1.sparsity_coefficients=[0.5, 1.5, 3.0]")
    assert dipole("run", path, *changes).exit_code == 0
    (tmp_path / "fresh").mkdir()
    fresh = study(tmp_path / "fresh", tiny_model_folder, corpus_file)
    assert dipole("run", fresh, *changes).exit_code == 0
    assert weights(run) == weights(tmp_path / "fresh/run")
    for shard in sorted((tmp_path / "fresh/run/activations").rglob("shard-*")):
        assert (
            shard.read_bytes()
            == (run / "activations" / shard.relative_to(tmp_path / "fresh/run/activations")).read_bytes()
        )


def test_more_tokens_come_after_the_old_ones(grown):
    """The model reads none of the old ones again; SAEs keep the rows that they were trained on, and say so."""
    path, run = grown
    before = stamps(run, "saes/*/[cw]*") | stamps(run, "activations/**/*.safetensors")
    old = ActivationDataset(run / "activations")
    changes = sets("harvest.n_tokens=6144", "train.seeds=[0, 1, 2]")
    result = dipole("run", path, *changes)
    assert result.exit_code == 0, result.output
    after = stamps(run, "saes/*/[cw]*") | stamps(run, "activations/**/*.safetensors")
    assert before.items() <= after.items()
    n_old, new = old.view.n_rows["train"], ActivationDataset(run / "activations")
    assert f"train: kept with the {n_old:,} training rows of 4,096 tokens that they began with: " in result.output
    n_new = new.view.n_rows["train"]
    assert n_new > n_old
    assert len(new.view.shards) > len(old.view.shards)
    table = pd.read_csv(run / "eval.csv").set_index("seed")
    assert set(table.loc[[0, 1], "n_training_rows"]) == {n_old}
    assert set(table.loc[[2], "n_training_rows"]) == {n_new}
    for _, of_hook in table.groupby("hook_name"):
        assert len(set(of_hook["n_tokens"])) == 1, "all are measured on the same, larger set"
        assert min(of_hook["n_tokens"]) > old.view.n_rows["held_out"] - 50
    hook = new.hook_names[0]
    for name in ("mean", "norm_bound", "n_outliers"):
        there = getattr(ActivationDataset(run / "activations", extent=0).view.hooks[hook], name)
        assert there == getattr(old.view.hooks[hook], name), "statistics of the old rows stay"
    again = dipole("run", path, *changes)
    assert "train: 0 of 24 SAEs to make" in again.output
    assert "harvest: complete" in again.output
    back = dipole("run", path)
    assert back.exit_code == 0
    assert "train: 0 of 16 SAEs to make" in back.output
    assert "kept with" not in back.output


def test_a_half_trained_sae_keeps_its_rows_when_the_text_grows(
    finished, tmp_path, tiny_model_folder, corpus_file, monkeypatch
):
    """Stopped at its first checkpoint; then there are more tokens: it ends as it would have."""
    from saes.learner import SAELearner

    _, run = finished
    path = study(tmp_path, tiny_model_folder, corpus_file)
    assert dipole("harvest", path).exit_code == 0
    real = SAELearner.step_scaled

    def fails(self, x):
        if self.step_number == 7:
            raise RuntimeError("power cut")
        return real(self, x)

    monkeypatch.setattr(SAELearner, "step_scaled", fails)
    assert "power cut" in dipole("train", path).output
    monkeypatch.setattr(SAELearner, "step_scaled", real)
    result = dipole("run", path, *sets("harvest.n_tokens=6144", "train.bank_size=3"))
    assert result.exit_code == 0, result.output
    theirs = {name: digest for name, digest in weights(run).items() if "mlp_out" in name}
    assert theirs.items() <= weights(tmp_path / "run").items()
    assert weights(run).items() != weights(tmp_path / "run").items(), "those of the other hook had not begun"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.learner.learning_rate=0.002", "learner.learning_rate: there 0.0015, now 0.002"),
        ("train.batch_size=64", "batch_size: there 128, now 64"),
        ("harvest.context_length=16", "harvest.context_length: there 32, now 16"),
        ("harvest.seed=3", "harvest.seed: there 0, now 3"),
        ("harvest.dtype=float32", "harvest.dtype: there 'bfloat16', now 'float32'"),
        (
            "harvest.n_tokens=2048",
            "holds activations of 4,096 tokens and harvest.n_tokens is 2,048; give one of these, or more",
        ),
    ],
)
def test_what_would_alter_what_is_there_is_refused(grown, override, line):
    path, run = grown
    before = stamps(run, "saes/**/*") | stamps(run, "activations/**/[!.]*") | stamps(run, "*.csv")
    result = dipole("run", path, "--set", override)
    assert result.exit_code == 2
    assert line in result.output
    assert "set activations to another folder" in result.output or "give another name or run_dir" in result.output
    assert stamps(run, "saes/**/*") | stamps(run, "activations/**/[!.]*") | stamps(run, "*.csv") == before


def altered(model: Path, folder: Path, part: str) -> Path:
    """A copy of a model that differs in its weights, its configuration or its tokenizer."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    if part == "weights":
        tensors = load_file(folder / "model.safetensors")
        next(iter(tensors.values())).view(-1)[0] += 1
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        name, old, new = {
            "config": ("config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-02'),
            "tokenizer": ("tokenizer.json", '"w5"', '"v5"'),
        }[part]
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
    return folder


@pytest.mark.parametrize("stage", ["harvest", "train", "eval", "report"])
@pytest.mark.parametrize(
    ("part", "key"),
    [("weights", "model.weights"), ("config", "model.config.rms_norm_eps"), ("tokenizer", "model.tokenizer")],
)
def test_every_stage_knows_another_model(grown, tmp_path, tiny_model_folder, part, key, stage):
    path, _ = grown
    other = altered(tiny_model_folder, tmp_path / "other", part)
    result = dipole(stage, path, "--set", f"model.local={other}")
    assert result.exit_code == 2
    assert f"{key}: there " in result.output
    assert "holds activations of another harvest" in result.output


@pytest.mark.parametrize("stage", ["harvest", "train", "report"])
def test_every_stage_knows_another_text(grown, tmp_path, corpus_file, stage):
    """A corpus overwritten under its old name, and another corpus; the same text elsewhere is the same."""
    path, _ = grown
    same = tmp_path / "same.jsonl"
    shutil.copy(corpus_file, same)
    result = dipole(stage, path, "--set", f"corpus.files=[{same}]")
    assert result.exit_code == 0, result.output
    assert f"comparing the text of {same}" in result.output
    lines = corpus_file.read_text().splitlines()
    same.write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    result = dipole(stage, path, "--set", f"corpus.files=[{same}]")
    assert result.exit_code == 2
    assert "the text is not the one that" in result.output
    assert "set activations to another folder" in result.output


def test_paths_and_names_are_no_part_of_what_activations_are(
    grown, tmp_path, tiny_model_folder, corpus_file, monkeypatch
):
    path, _ = grown
    shutil.copytree(tiny_model_folder, tmp_path / "elsewhere")
    shutil.copy(corpus_file, tmp_path / "text.jsonl")
    monkeypatch.chdir(tmp_path)
    overrides = sets("model.local=elsewhere", "corpus.files=[./text.jsonl]", "harvest.batch_tokens=64", "name=other")
    result = dipole("run", path, *overrides)
    assert result.exit_code == 0, result.output
    assert "train: 0 of 16 SAEs to make" in result.output
    assert "comparing" not in dipole("run", path, *overrides).output, "it is known now"


def test_the_environment_stays_with_what_was_made(grown, monkeypatch):
    """A report made elsewhere does not claim the training for its machine."""
    import pipeline.units

    path, run = grown
    there = read_json(next(run.glob("saes/*/cfg.json")))["unit"]["environment"]
    laptop = {**there, "cpu": "a laptop's"}
    monkeypatch.setattr(pipeline.units, "environment", lambda: laptop)
    assert dipole("report", path).exit_code == 0
    assert "a laptop" not in (run / "report.html").read_text()
    assert dipole("run", path, "--set", "train.seeds=[0, 1, 2]").exit_code == 0
    page = (run / "report.html").read_text()
    assert "16 SAEs, 16 evaluations" in page
    assert "Made: 8 SAEs, 8 evaluations" in page
    assert "cpu a laptop&#39;s" in page


def test_a_read_only_run_is_reported_elsewhere(grown, tmp_path):
    path, run = grown
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    result = dipole("report", path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out/report.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "out/verdicts.csv").is_file()
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    nowhere = dipole("report", path, "--out", tmp_path / "out", "--set", f"run_dir={tmp_path / 'nowhere'}")
    assert nowhere.exit_code == 2
    assert "nowhere does not exist" in nowhere.output


def test_a_second_study_waits_for_the_harvest_of_the_first(tmp_path, tiny_model_folder, corpus_file):
    from pipeline.run_dir import exclusive

    path = study(tmp_path, tiny_model_folder, corpus_file, activations=str(tmp_path / "shared"))
    (tmp_path / "shared").mkdir()
    command = [sys.executable, "-m", "pipeline.cli", "harvest", str(path)]
    log = tmp_path / "log"
    with log.open("w") as errors, exclusive(tmp_path / "shared", "first"):
        process = subprocess.Popen(command, stderr=errors)
        deadline = time.monotonic() + 60
        while "waiting" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None
    assert process.wait(timeout=120) == 0
    said = log.read_text()
    assert "waiting for study first (process" in said
    assert "training and" in said


def test_a_misspelt_folder_of_activations_is_said(finished, tmp_path, tiny_model_folder, corpus_file):
    _, run = finished
    wrong = run.parent / "runs" / "activations"
    path = study(tmp_path, tiny_model_folder, corpus_file, activations=str(wrong))
    result = dipole("harvest", path, "--set", "harvest.context_length=512")
    assert f"harvest: {wrong} holds no activations yet, so a new harvest is made there" in result.output
    assert f"did you mean {run / 'activations'}?" in result.output


def test_nothing_is_pinned_by_a_first_command_that_failed(tmp_path, tiny_model_folder, corpus_file):
    path = study(tmp_path, tiny_model_folder, corpus_file)
    failed = dipole("run", path, "--set", f"corpus.files=[{tmp_path / 'missing.jsonl'}]")
    assert failed.exit_code == 2
    assert "missing.jsonl' does not exist" in failed.output
    result = dipole("harvest", path, *sets("harvest.context_length=16", "train.batch_size=64"))
    assert result.exit_code == 0, result.output


def test_one_directory_holds_one_kind_of_study(grown):
    path, run = grown
    xor = path.with_name("xor.yaml")
    xor.write_text(f"{{name: xor, kind: xor, run_dir: '{run}', train: {{n_seeds: 2, n_steps: 2}}}}")
    result = dipole("run", xor)
    assert result.exit_code == 2
    assert "holds a study of another kind (kind: there saes, now xor)" in result.output
