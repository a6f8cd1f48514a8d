"""eval.csv: written, read back and shown, for every kind of study."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from core.files import write_atomically
from eval.page.report import StudyFacts
from pipeline.progress import say
from pipeline.run_dir import RunDirectory
from pipeline.study import Study

SCHEMA_VERSION = 3
"""Of the columns of eval.csv."""
_FORMATS = {
    ".1f": ["L0"],
    ".4f": ["R2"],
    ".6g": ["objective"],
    ".1e": ["gap", "violation"],
    ".2f": ["seconds"],
    ".3f": ["dead", "bipolar", "train", "test", "test 20 %", "test 80 %", "own feature", "slope"],
    "g": ["rate"],
}


def without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """NaN as None, which JSON can hold."""
    return {name: None if value != value else value for name, value in values.items()}


def write_evaluation(study: Study, run: RunDirectory, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows of eval.csv, with the study's name and the version of the columns."""
    table = pd.DataFrame([{**row, "study": study.name, "schema_version": SCHEMA_VERSION} for row in rows])
    write_atomically(run.eval_csv, lambda path: table.to_csv(path, index=False))
    say(f"eval: {run.eval_csv}")


def read_evaluation(run: RunDirectory) -> pd.DataFrame:
    """eval.csv. Raises ValueError where there is none yet, and for one of another version."""
    if not run.eval_csv.exists():
        raise ValueError(f"{run.eval_csv} does not exist; run dipole eval first")
    table = pd.read_csv(run.eval_csv)
    version = table["schema_version"].iloc[0] if "schema_version" in table else 1
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{run.eval_csv} has columns of version {version}, this dipole reads {SCHEMA_VERSION}; run dipole eval again: what "
            "was measured is kept"
        )
    return table


def study_facts(study: Study, run: RunDirectory) -> StudyFacts:
    """What every report says of its study."""
    return StudyFacts(study.name, study.to_yaml(), run.environment(), run.stage_records())


def require_trained(missing: Sequence[str], n: int, what: str) -> None:
    """Raises ValueError naming the first of the ``missing`` ids among ``n`` things that training leaves."""
    if missing:
        raise ValueError(
            f"{len(missing)} of {n} {what} are not trained yet ({missing[0]}, ...); run dipole train first"
        )


def for_people(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """Some columns, named for people."""
    return table.loc[:, list(columns)].rename(columns=dict(columns))


def print_table(table: pd.DataFrame) -> None:
    """On standard output; numbers as their column asks for."""
    formats = {name: spec for spec, names in _FORMATS.items() for name in names}
    formatters: Any = {name: f"{{:{formats[name]}}}".format for name in table if name in formats}
    print(table.to_string(index=False, formatters=formatters, na_rep="-"))
