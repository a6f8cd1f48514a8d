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
