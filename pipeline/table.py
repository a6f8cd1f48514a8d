"""What the eval and report stages of every kind of study share: eval.csv, and the errors of stages run out of order."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from eval.saes.report import StudyFacts
from core.files import write_atomically
from pipeline.studies.networks.study import AnyStudy
from pipeline.progress import say
from pipeline.run_dir import RunDirectory
from pipeline.study_file import study_yaml


def require_trained(missing: Sequence[str], n: int, what: str) -> None:
    """Raises ValueError naming the first of the ``missing`` ids among ``n`` things that training leaves."""
    if missing:
        raise ValueError(
            f"{len(missing)} of {n} {what} are not trained yet ({missing[0]}, ...); run dipole train first"
        )


def without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """NaN as None, which JSON can hold."""
    return {name: None if value != value else value for name, value in values.items()}


def study_facts(study: AnyStudy, run: RunDirectory) -> StudyFacts:
    """What every report says of its study."""
    return StudyFacts(study.name, study_yaml(study), run.environment(), run.stage_records())


def write_evaluation(run: RunDirectory, rows: Sequence[Mapping[str, Any]]) -> None:
    """One row of eval.csv per trained thing."""
    table = pd.DataFrame(rows)
    write_atomically(run.eval_csv, lambda path: table.to_csv(path, index=False))
    say(f"eval: {run.eval_csv}")


def read_evaluation(run: RunDirectory) -> pd.DataFrame:
    """eval.csv. Raises ValueError where there is none yet."""
    if not run.eval_csv.exists():
        raise ValueError(f"{run.eval_csv} does not exist; run dipole eval first")
    return pd.read_csv(run.eval_csv)
