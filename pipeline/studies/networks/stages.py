"""The stages of a network study: rows -> network folders -> eval.csv -> report."""

import time
from typing import Any

import pandas as pd
import torch

from eval.networks.report import NetworkProvenance, write_network_report
from eval.networks.verdicts import evaluate_network
from core.files import read_json, write_json
from core.model_folder import is_model_complete
from hookpoints.models import resolve_device
from hookpoints.shards import ActivationDataset
from pipeline.table import read_evaluation, require_trained, study_facts, without_nan, write_evaluation
from pipeline.studies.networks.study import ActivationData, ConvexMethod, NetworkSpec, NetworkStudy, RobustMethod, SampledMethod
from pipeline.studies.networks.data import Task, load_task
from pipeline.studies.networks.methods import Shared, make_network_learner, n_steps_of, share
from pipeline.progress import Display, progress, say
from pipeline.run_dir import RunDirectory, append_line
from pipeline.studies.saes.stages import harvest_activations
from core.trainer import Checkpoints, NoBatches, StepRecord, fit
from twolayer.convex.admm import ADMM
from twolayer.data import Rows
from twolayer.io import SavedNetwork, load_network, save_network
from twolayer.certificate import Certificate

_EVALUATION = "eval.json"


def harvest_rows(study: NetworkStudy, run: RunDirectory) -> None:
    """Text -> activation shards, where the study reads activations."""
    data = study.data
    if isinstance(data, ActivationData):
        harvest_activations(data.model, data.corpus, data.harvest, study.activations_path)
    else:
        say(f"harvest: nothing to do, the rows are {data.source}")


def train_networks(study: NetworkStudy, run: RunDirectory) -> None:
    """Rows -> network folders. Betas of one method and seed follow each other down, each starting from the one before."""
    specs = study.specs()
    missing = [spec for spec in specs if not is_model_complete(run.network_folder(spec.network_id))]
    say(f"train: {len(missing)} of {len(specs)} networks to train")
    with progress("train", len(missing), "networks") as display:
        n_done = 0
        for name in dict.fromkeys(spec.task for spec in missing):
            task = _on_device(load_task(study, name), study)
            say(f"train: {name}: {task.description}")
            paths = dict.fromkeys((spec.family, spec.seed) for spec in missing if spec.task == name)
            for family, seed in paths:
                path = [spec for spec in specs if (spec.task, spec.family, spec.seed) == (name, family, seed)]
                n_done = _train_path(study, run, task, path, display, n_done)
    say(f"train: {len(specs)} networks in {run.path / 'networks'}")


def _on_device(task: Task, study: NetworkStudy) -> Task:
    device = resolve_device(study.train.device)
    return task._replace(train=Rows(*(part.to(device) for part in task.train)))


def _train_path(
    study: NetworkStudy, run: RunDirectory, task: Task, path: list[NetworkSpec], display: Display, n_done: int
) -> int:
    """Networks of one method and seed, along the path of betas; returns how many networks of the study are done."""
    shared = share(path[0].method, task.train, study.train, path[0].seed)
    start: torch.Tensor | None = None
    for spec in path:
        folder = run.network_folder(spec.network_id)
        if not is_model_complete(folder):
            _train_network(study, run, task, spec, shared, start, display, n_done)
            n_done += 1
        start = load_network(folder).point
        start = None if start is None else start.to(task.train.x)
    return n_done


def _train_network(
    study: NetworkStudy, run: RunDirectory, task: Task, spec: NetworkSpec, shared: Shared, start: torch.Tensor | None,
    display: Display, n_done: int,
) -> None:  # fmt: skip
    began = time.monotonic()
    learner = make_network_learner(spec, task.train, study.train, shared, start)
    n_steps = n_steps_of(spec.method, study.train)
    checkpoints = Checkpoints(run.checkpoint_path(spec.network_id), study.train.checkpoint_every)
    tolerance = study.train.tolerance

    def is_solved(_: StepRecord) -> bool:
        certificate = learner.certificate
        return certificate.relative_gap <= tolerance and certificate.violation <= tolerance

    earlier, seconds, last = 0.0, 0.0, None
    for record in fit(learner, NoBatches(), steps=n_steps, checkpoints=checkpoints, stop=is_solved):
        if last is None:
            run.forget_metrics_after({spec.network_id}, record.step - 1, key="network_id")
            known = run.metric_records("network_id", spec.network_id)
            earlier = known[-1]["seconds"] if known else 0.0
        last = record
        seconds = earlier + time.monotonic() - began
        if _is_logged(record.step):
            _log(run, spec, record, seconds)
        display.update(n_done, f"{spec.network_id}: step {record.step:,}, objective {record.metrics['objective']:.6g}")
    if last is not None and not _is_logged(last.step):
        _log(run, spec, last, seconds)
    known = run.metric_records("network_id", spec.network_id)
    final = known[-1] if known else {"step": n_steps, "seconds": seconds}
    certificate: Certificate = learner.certificate
    metadata = {
        "network_id": spec.network_id,
        "study": study.name,
        "task": spec.task,
        "description": task.description,
        "family": spec.family,
        "method": spec.method.model_dump(mode="json"),
        "loss": study.train.loss,
        "beta": spec.beta,
        "seed": spec.seed,
        "n_train": len(task.train.y),
        "d": task.train.x.shape[1],
        "n_steps": final["step"],
        "seconds": round(final["seconds"], 4),
        **certificate._asdict(),
    }
    point = learner.solution if isinstance(learner, ADMM) else None
    save_network(
        run.network_folder(spec.network_id), SavedNetwork(learner.network(), task.preparation, metadata, point)
    )
    checkpoints.path.unlink(missing_ok=True)


def _is_logged(step: int) -> bool:
    """The first hundred steps, then every tenth up to a thousand, then every hundredth."""
    return step <= 100 or (step <= 1000 and step % 10 == 0) or step % 100 == 0


def _log(run: RunDirectory, spec: NetworkSpec, record: StepRecord, seconds: float) -> None:
    line: dict[str, Any] = {"network_id": spec.network_id, "step": record.step, "seconds": round(seconds, 4)}
    append_line(run.metrics_path, {**line, **record.metrics})


def evaluate_networks(study: NetworkStudy, run: RunDirectory) -> None:
    """Network folders -> eval.csv, one row per network."""
    specs = study.specs()
    missing = [spec.network_id for spec in specs if not is_model_complete(run.network_folder(spec.network_id))]
    require_trained(missing, len(specs), "networks")
    tasks: dict[str, Task] = {}
    rows = []
    with progress("eval", len(specs), "networks") as display:
        for number, spec in enumerate(specs):
            folder = run.network_folder(spec.network_id)
            path = folder / _EVALUATION
            saved = load_network(folder)
            if not path.exists():
                if spec.task not in tasks:
                    tasks = {spec.task: load_task(study, spec.task)}
                task = tasks[spec.task]
                measured = evaluate_network(
                    saved.network, task.train, task.validation, task.test, beta=spec.beta, loss=study.train.loss,
                    epsilons=study.eval.epsilons, pgd_steps=study.eval.pgd_steps,
                )  # fmt: skip
                write_json(path, without_nan(measured))
            rows.append({**_facts(spec, saved), **read_json(path)})
            display.update(number + 1, spec.network_id)
    write_evaluation(run, rows)


def _facts(spec: NetworkSpec, saved: SavedNetwork) -> dict[str, Any]:
    """Columns of eval.csv that were known after training; no bound where the method proves none."""
    kept = ("network_id", "task", "family", "beta", "seed", "loss", "n_train", "d", "n_steps", "seconds")
    is_certified = isinstance(spec.method, ConvexMethod | RobustMethod | SampledMethod)
    proof = {name: saved.metadata[name] for name in Certificate._fields}
    if not is_certified:
        proof |= {"lower_bound": None, "relative_gap": None, "violation": None}
    return {
        **{name: saved.metadata[name] for name in kept},
        **proof,
        "method": spec.method.method,
        "label": spec.label,
        "is_certified": is_certified,
    }


def report_networks(study: NetworkStudy, run: RunDirectory) -> None:
    """eval.csv and metrics.jsonl -> report.html, verdicts.csv, plots."""
    table = read_evaluation(run)
    manifest = ActivationDataset(study.activations_path).manifest if isinstance(study.data, ActivationData) else None
    specs = study.specs()
    descriptions = {
        spec.task: load_network(run.network_folder(spec.network_id)).metadata["description"] for spec in specs
    }
    facts = study_facts(study, run)
    provenance = NetworkProvenance(facts, descriptions, manifest)
    trace = pd.read_json(run.metrics_path, lines=True)
    files = write_network_report(run.path, table, trace, provenance)
    say(f"report: {files.html}")
