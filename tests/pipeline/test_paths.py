"""Paths as people write them: `~`, variables, and relative to where one stands or to the study file."""

from pathlib import Path

import pytest
import yaml

from pipeline.study_file import ConfigError, load_study

SWEEP = {"architecture": "gated", "d_sae": 8, "sparsity_coefficients": [1.0]}


def written(folder: Path, **changes) -> Path:
    study = {
        "name": "paths",
        "model": {"local": "models/mine"},
        "corpus": {"files": ["text/*.jsonl"]},
        "harvest": {"hookpoints": [{"site": "mlp_out"}], "n_tokens": 1000},
        "train": {"n_steps": 1, "saes": [SWEEP]},
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**study, **changes}))
    return path


def test_home_and_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    path = written(
        tmp_path,
        model={"local": "~/models/mine"},
        corpus={"files": ["$SCRATCH/text", "${SCRATCH}/more.txt"]},
        run_dir="$SCRATCH/runs/x",
        activations="~/activations",
    )
    study = load_study(path).study.to_dict()
    assert study["model"]["local"] == str(tmp_path / "home/models/mine")
    assert study["corpus"]["files"] == ["/scratch/me/text", "/scratch/me/more.txt"]
    assert study["run_dir"] == "/scratch/me/runs/x"
    assert study["activations"] == str(tmp_path / "home/activations")


@pytest.mark.parametrize("name", ["$NOT_SET_HERE/x", "${NOT_SET_HERE}/x", "~nobody-of-this-name/x"])
def test_what_is_not_known_is_no_folder_of_that_name(tmp_path, name):
    with pytest.raises(
        ConfigError, match=r"study.yaml:\d+: run_dir: .*(not set in the environment|whom this machine does not know)"
    ):
        load_study(written(tmp_path, run_dir=name))


def test_relative_paths_are_taken_from_where_one_stands_or_beside_the_study(tmp_path, monkeypatch):
    beside, here = tmp_path / "project", tmp_path / "here"
    path = written(beside)
    here.mkdir()
    monkeypatch.chdir(here)
    loaded = load_study(path)
    assert loaded.study.to_dict()["model"]["local"] == "models/mine"
    assert loaded.said == []
    (beside / "models/mine").mkdir(parents=True)
    (beside / "text").mkdir()
    (beside / "text/a.jsonl").write_text("")
    loaded = load_study(path)
    assert loaded.study.to_dict()["model"]["local"] == str(beside / "models/mine")
    assert loaded.study.to_dict()["corpus"]["files"] == [str(beside / "text/*.jsonl")]
    assert f"local 'models/mine' is {beside / 'models/mine'}, beside the study file" in loaded.said
    (here / "models/mine").mkdir(parents=True)
    loaded = load_study(path)
    assert loaded.study.to_dict()["model"]["local"] == "models/mine"
    assert (
        f"local 'models/mine' is {here / 'models/mine'}, not {beside / 'models/mine'} beside the study file"
        in loaded.said
    )


def test_a_new_run_directory_is_made_where_one_stands(tmp_path, monkeypatch):
    path = written(tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    assert load_study(path, ["run_dir=runs/x"]).study.run_path == Path("runs/x")
    (tmp_path / "project/runs/x").mkdir(parents=True)
    assert load_study(path, ["run_dir=runs/x"]).study.run_path == tmp_path / "project/runs/x"
