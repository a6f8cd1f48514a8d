"""What may be shared: activations are known by what they hold; every stage refuses those of another model or text."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.files import read_json
from tests.models import save_tiny_model
from tests.pipeline.studies.common import dipole, sets, study


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
    assert "16 SAEs, 32 evaluations" in page
    assert "Made: 8 SAEs, 16 evaluations" in page
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


def test_files_in_another_order_are_another_text(tmp_path, tiny_model_folder, corpus_file):
    lines = corpus_file.read_text().splitlines(keepends=True)
    for name, part in (("a", lines[:100]), ("b", lines[100:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(part))
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    path = study(tmp_path, tiny_model_folder, a)
    path.write_text(path.read_text().replace(f"- {a}\n", f"- {a}\n  - {b}\n"))
    assert dipole("harvest", path).exit_code == 0
    for other in (f"[{b}, {a}]", f"[{a}, {a}, {b}]"):
        result = dipole("train", path, "--set", f"corpus.files={other}")
        assert result.exit_code == 2
        assert "the text is not the one that" in result.output
    result = dipole("harvest", path, "--set", f"corpus.files=['{tmp_path}/?.jsonl']")
    assert result.exit_code == 0, result.output


def test_special_tokens_in_other_roles_are_another_tokenizer(tmp_path, tiny_model_folder, corpus_file):
    path = study(tmp_path, tiny_model_folder, corpus_file)
    changes = sets("harvest.prepend_bos=true")
    assert dipole("harvest", path, *changes).exit_code == 0
    shutil.copytree(tiny_model_folder, tmp_path / "swapped")
    file = tmp_path / "swapped/tokenizer_config.json"
    swapped = file.read_text().replace('"</s>"', '"<x>"').replace('"<s>"', '"</s>"').replace('"<x>"', '"<s>"')
    file.write_text(swapped)
    result = dipole("train", path, *changes, *sets(f"model.local={tmp_path / 'swapped'}"))
    assert result.exit_code == 2
    assert "model.tokenizer: there " in result.output


def test_conversations_of_another_chat_template_are_another_text(tmp_path, tiny_model_folder):
    import json

    from tests.models import random_documents

    model = tmp_path / "model"
    shutil.copytree(tiny_model_folder, model)
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    chats = tmp_path / "chats.jsonl"
    rows = [{"messages": [{"role": "user", "content": text}]} for text in random_documents(200)]
    chats.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = study(tmp_path, model, chats)
    path.write_text(path.read_text().replace("corpus:\n", "corpus:\n  messages_column: messages\n"))
    assert dipole("harvest", path).exit_code == 0
    (model / "chat_template.jinja").write_text("w1 " + template)
    result = dipole("train", path)
    assert result.exit_code == 2, result.output
    assert "the text is not the one that" in result.output


@pytest.mark.parametrize("gone", ["harvest.json", "contexts/contexts.json"])
def test_rows_of_nobody_knows_what_are_not_adopted(grown, tmp_path, tiny_model_folder, gone):
    """A folder that somebody began to delete, and another model."""
    path, run = grown
    for file in [*(run / "activations").glob("*.json"), run / "activations" / gone]:
        if gone == "harvest.json" or file.name in ("manifest.json", "contexts.json"):
            file.unlink(missing_ok=True)
    other = save_tiny_model(tmp_path / "other", seed=1) if gone == "harvest.json" else tiny_model_folder
    result = dipole("harvest", path, "--set", f"model.local={other}")
    assert result.exit_code == 2
    assert f"holds rows and no {Path(gone).name}, so nobody knows of what: delete that folder" in result.output
