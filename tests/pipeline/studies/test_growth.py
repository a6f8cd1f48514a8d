"""A finished study grows: what is there is kept, and the rest is made or refused."""

import pandas as pd
import pytest

from core.files import read_json
from hookpoints.shards import ActivationDataset
from tests.pipeline.studies.common import dipole, sets, stamps, study, weights

HOOKS = "harvest.hookpoints=[{site: mlp_out}, {site: resid_post, layer: 0}, {site: attn_out}]"


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


@pytest.mark.parametrize(
    "override", ["eval.min_fires=3", "train.seeds=[1]", "train.saes.0.sparsity_coefficients=[0.5]"]
)
def test_a_report_is_of_the_study_as_given(grown, override):
    """The table is of another one until it is evaluated again; then the report is made."""
    path, run = grown
    page = (run / "report.html").read_bytes()
    for out in ([], ["--out", run.parent / "out"]):
        result = dipole("report", path, "--set", override, *out)
        assert result.exit_code == 2
        assert "eval.csv is not of the study as given" in result.output
        assert "run dipole eval first: what was measured is kept" in result.output
    assert (run / "report.html").read_bytes() == page
    assert dipole("eval", path, "--set", override).exit_code == 0
    assert dipole("report", path, "--set", override).exit_code == 0


def test_an_sae_of_text_that_grew_is_not_one_of_text_read_at_once(grown, tmp_path, tiny_model_folder, corpus_file):
    """Its rows lie in other shards, so it sees them in another order: what it is made from says so."""
    path, run = grown
    tokens = sets("harvest.n_tokens=6144", "train.seeds=[2]")
    assert dipole("run", path, *tokens).exit_code == 0
    (tmp_path / "fresh").mkdir()
    fresh = study(tmp_path / "fresh", tiny_model_folder, corpus_file)
    assert dipole("run", fresh, *tokens).exit_code == 0
    here, there = (
        {p.parent.name: read_json(p)["unit"] for p in r.glob("saes/*/cfg.json")} for r in (run, tmp_path / "fresh/run")
    )
    for name, unit in there.items():
        assert here[name]["fingerprint"] != unit["fingerprint"]
        assert len(here[name]["needs"]["rows"]["text"]["grown"]) == 2


def test_weights_that_are_gone_are_made_again(grown):
    path, run = grown
    before = weights(run)
    victim = next(run.glob("saes/*/weights.safetensors"))
    victim.unlink()
    result = dipole("run", path)
    assert "train: 1 of 16 SAEs to make" in result.output
    assert weights(run) == before
