"""Running a study: the stages of its kind, in order, inside its locked run directory."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pipeline.memory import peak_memory_bytes, reset_peak_memory
from pipeline.studies.networks.study import AnyStudy
from pipeline.studies.networks.stages import evaluate_networks, harvest_rows, report_networks, train_networks
from pipeline.progress import duration, say
from pipeline.run_dir import RunDirectory, open_run
from pipeline.studies.saes.stages import eval_stage, harvest_stage, report_stage, train_stage
from pipeline.studies.xor.stages import evaluate_descents, harvest_clusters, report_descents, train_descents

STAGE_NAMES = ("harvest", "train", "eval", "report")
STAGES: dict[str, tuple[Callable[[Any, RunDirectory], object], ...]] = {
    "saes": (harvest_stage, train_stage, eval_stage, report_stage),
    "networks": (harvest_rows, train_networks, evaluate_networks, report_networks),
    "xor": (harvest_clusters, train_descents, evaluate_descents, report_descents),
}


def run_stages(study: AnyStudy, names: Sequence[str]) -> RunDirectory:
    """Run stages in order; each one's time and peak memory go to stages.jsonl."""
    with open_run(study) as run:
        for name in names:
            reset_peak_memory()
            started = time.monotonic()
            STAGES[study.kind][STAGE_NAMES.index(name)](study, run)
            seconds = time.monotonic() - started
            peak = peak_memory_bytes()
            run.append_stage(
                {
                    "stage": name,
                    "seconds": round(seconds, 2),
                    "peak_memory_bytes": peak,
                    "torch": torch.__version__,
                }
            )
            say(f"{name}: done in {duration(seconds)}, peak memory {peak / 1e9:.2f} GB")
    return run
