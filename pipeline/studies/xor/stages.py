"""The stages of an XOR-cluster study: descents -> eval.csv -> report."""

import time
from typing import Any

from eval.xor.report import write_xor_report
from core.files import read_json, write_json
from pipeline.table import read_evaluation, require_trained, study_facts, without_nan, write_evaluation
from pipeline.studies.networks.study import XORStudy
from pipeline.progress import Display, progress, say
from pipeline.run_dir import RunDirectory
from core.trainer import Checkpoints, Metrics, NoBatches, fit
from twolayer.xor.descent import DESCENTS

_CHECKPOINT_EVERY = 1000


def harvest_clusters(study: XORStudy, run: RunDirectory) -> None:
    """Nothing: clusters are drawn from the seeds."""
    say("harvest: nothing to do, clusters are drawn from the seeds")


def train_descents(study: XORStudy, run: RunDirectory) -> None:
    """One descent per learning rate and seed, measured on its way."""
    runs = study.run_ids()
    missing = [one for one in runs if not run.descent_path(one[0]).exists()]
    say(f"train: {len(missing)} of {len(runs)} descents to run, {study.train.n_steps} steps each")
    with progress("train", len(missing), "descents") as display:
        for number, (run_id, learning_rate, seed) in enumerate(missing):
            _descend(study, run, run_id, learning_rate, seed, display, number)
            display.update(number + 1, run_id)


class MeasuredDescent:
    """A learner: a descent, and what was measured of it on its way; both are in the checkpoint."""

    def __init__(self, study: XORStudy, *, seed: int, learning_rate: float) -> None:
        self._descent = DESCENTS[study.train.method](study.data, seed=seed, learning_rate=learning_rate)
        self._steps = set(study.measured_steps)
        self._projection_steps = set(study.eval.projection_steps)
        self._step_number = 0
        self.measured: list[dict[str, Any]] = []
        self._measure()

    def step(self, batch: object = None) -> Metrics:
        """One step of the descent."""
        metrics = self._descent.step(batch)
        self._step_number += 1
        self._measure()
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        return {"descent": self._descent.state_dict(), "step": self._step_number, "measured": self.measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._descent.load_state_dict(state["descent"])
        self._step_number, self.measured = state["step"], state["measured"]

    def _measure(self) -> None:
        if self._step_number in self._steps:
            metrics = without_nan(self._descent.metrics()._asdict())
            wants_projections = self._step_number in self._projection_steps
            projections = self._descent.projections().tolist() if wants_projections else None
            self.measured.append({"step": self._step_number, **metrics, "projections": projections})


def _descend(
    study: XORStudy, run: RunDirectory, run_id: str, learning_rate: float, seed: int, display: Display, n_done: int
) -> None:
    began = time.monotonic()
    learner = MeasuredDescent(study, seed=seed, learning_rate=learning_rate)
    checkpoints = Checkpoints(run.checkpoint_path(run_id), _CHECKPOINT_EVERY)
    for record in fit(learner, NoBatches(), steps=study.train.n_steps, checkpoints=checkpoints):
        display.update(n_done, f"{run_id}: step {record.step}")
    seconds = round(time.monotonic() - began, 3)
    done = {"run_id": run_id, "learning_rate": learning_rate, "seed": seed, "seconds": seconds}
    write_json(run.descent_path(run_id), {**done, "measured": learner.measured})
    checkpoints.path.unlink(missing_ok=True)


def evaluate_descents(study: XORStudy, run: RunDirectory) -> None:
    """Measured descents -> eval.csv, one row per descent and step."""
    runs = study.run_ids()
    missing = [run_id for run_id, *_ in runs if not run.descent_path(run_id).exists()]
    require_trained(missing, len(runs), "descents")
    rows = []
    for run_id, learning_rate, seed in runs:
        for one in read_json(run.descent_path(run_id))["measured"]:
            values = {name: value for name, value in one.items() if name != "projections"}
            rows.append({"run_id": run_id, "learning_rate": learning_rate, "seed": seed, **values})
    write_evaluation(run, rows)


def report_descents(study: XORStudy, run: RunDirectory) -> None:
    """eval.csv and projections -> report.html, verdicts.csv, plots."""
    table = read_evaluation(run)
    projections: dict[float, dict[int, list[list[float]]]] = {}
    for run_id, learning_rate, _ in study.run_ids():
        for one in read_json(run.descent_path(run_id))["measured"]:
            if one["projections"] is not None:
                projections.setdefault(learning_rate, {}).setdefault(one["step"], []).extend(one["projections"])
    facts = study_facts(study, run)
    files = write_xor_report(run.path, table, projections, study.data, facts)
    say(f"report: {files.html}")
