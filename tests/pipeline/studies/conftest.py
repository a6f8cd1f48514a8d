import shutil
from pathlib import Path

import pytest

from tests.pipeline.studies.common import dipole, study


@pytest.fixture(scope="package")
def finished(tmp_path_factory, tiny_model_folder, corpus_file) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("study")
    path = study(folder, tiny_model_folder, corpus_file)
    result = dipole("run", path)
    assert result.exit_code == 0, result.output
    return path, folder / "run"


@pytest.fixture
def grown(finished, tmp_path) -> tuple[Path, Path]:
    """A copy of the finished study, free to be changed."""
    path, run = finished
    shutil.copytree(run, tmp_path / "run")
    copy = tmp_path / "study.yaml"
    copy.write_text(path.read_text().replace(str(run), str(tmp_path / "run")))
    return copy, tmp_path / "run"
