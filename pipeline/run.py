"""Running a study: the stages of its kind, in order, inside its locked run directory; and what it prints at the end."""

import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.memory import peak_memory_bytes, reset_peak_memory
from pipeline.progress import duration, say
from pipeline.run_dir import RunDirectory, open_run
from pipeline.studies import kind_of
from pipeline.study import Study
from pipeline.table import print_table


def run_stages(study: Study, names: Sequence[str]) -> RunDirectory:
    """Run stages in order; each one's time and peak memory go to stages.jsonl."""
    stages = kind_of(study).stages()
    functions = {"harvest": stages.harvest, "train": stages.train, "eval": stages.evaluate, "report": stages.report}
    with open_run(study) as run:
        for name in names:
            reset_peak_memory()
            started = time.monotonic()
            functions[name](study, run)
            seconds = time.monotonic() - started
            peak = peak_memory_bytes()
            run.append_stage({"stage": name, "seconds": round(seconds, 2), "peak_memory_bytes": peak})
            say(f"{name}: done in {duration(seconds)}, peak memory {peak / 1e9:.2f} GB")
    return run


def report_elsewhere(study: Study, out: Path) -> RunDirectory:
    """The report of a run directory that need not be writable, into another folder."""
    run = RunDirectory(study.run_path, out)
    if not run.path.is_dir():
        raise ValueError(f"{run.path} does not exist; run dipole run first, or give the study's run_dir")
    kind_of(study).stages().report(study, run)
    return run


def print_summary(study: Study, run: RunDirectory) -> None:
    """The evaluation table, the verdict sentences and the report's path."""
    summary = kind_of(study).stages().summary(run)
    print_table(summary.table)
    for title, said in summary.verdicts.items():
        print(f"\n{title}")
        for sentence in said:
            print(f"  {sentence}")
    print(f"\nreport: {run.report_html.resolve()}")
