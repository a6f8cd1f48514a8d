"""Units of network training: paths of betas, each network starting from the one before."""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from core.devices import resolve_device
from core.files import sha256_file
from core.model_folder import CONFIG_FILE
from core.trainer import NoBatches, StepRecord
from hookpoints.manifest import read_manifest
from pipeline.activations import provenance_needs
from pipeline.run_dir import RunDirectory
from pipeline.studies.networks.data import Task, load_task
from pipeline.studies.networks.learners import NetworkLearner, Shared, make_network_learner, share
from pipeline.studies.networks.study import ActivationData, CSVData, NetworkSpec, NetworkStudy
from pipeline.units import Product, Tick, Training, Unit, learn
from twolayer.convex.admm import ADMM
from twolayer.data import Rows
from twolayer.io import SavedNetwork, load_network, save_network


class Tasks:
    """The rows of a study's tasks, one at a time in memory."""

    def __init__(self, study: NetworkStudy) -> None:
        self._study = study
        self._loaded: dict[str, Task] = {}

    def get(self, name: str) -> Task:
        """Load it, unless it is the one loaded last."""
        if name not in self._loaded:
            self._loaded = {name: load_task(self._study, name)}
        return self._loaded[name]


def path_units(study: NetworkStudy, run: RunDirectory) -> list[Unit]:
    """One for each task, method and seed."""
    tasks, specs = Tasks(study), study.specs()
    rows = _row_needs(study)
    units = []
    for key in dict.fromkeys((spec.task, spec.method.family, spec.seed) for spec in specs):
        path = [spec for spec in specs if (spec.task, spec.method.family, spec.seed) == key]
        work = _PathWork(study, run, tasks, path)
        units.append(Unit([_product(study, run, rows, path[: n + 1]) for n in range(len(path))], work.make))
    return units


def _row_needs(study: NetworkStudy) -> dict[str, Any]:
    """What the rows of a study are a function of."""
    data = study.data
    needs: dict[str, Any] = {"data": data.model_dump(mode="json", exclude={"folder", "model", "corpus", "harvest"})}
    if isinstance(data, ActivationData):
        needs["activations"] = provenance_needs(read_manifest(study.activations_path))
    if isinstance(data, CSVData) and data.file.is_file():
        needs["file"] = sha256_file(data.file)
    return needs


def _product(study: NetworkStudy, run: RunDirectory, rows: dict[str, Any], path: list[NetworkSpec]) -> Product:
    """The last network of a path, which depends on those before."""
    spec = path[-1]
    needs = {
        **rows,
        "task": spec.task,
        "method": spec.method.model_dump(mode="json"),
        "loss": study.train.loss,
        "betas": [one.beta for one in path],
        "seed": spec.seed,
        "tolerance": study.train.tolerance,
        "max_steps": study.train.max_steps,
    }
    return Product(spec.network_id, needs, [run.folder("networks", spec.network_id) / CONFIG_FILE])


class _PathWork:
    """How the missing networks of one path are trained and published."""

    def __init__(self, study: NetworkStudy, run: RunDirectory, tasks: Tasks, path: list[NetworkSpec]) -> None:
        self._study, self._run, self._tasks, self._path = study, run, tasks, path

    def make(self, missing: Sequence[Product], tick: Tick) -> None:
        """Train what is missing along the path, from the largest beta down."""
        products = {product.name: product for product in missing}
        first, settings = self._path[0], self._study.train
        task = self._tasks.get(first.task)
        device = resolve_device(settings.device)
        task = task._replace(train=Rows(*(part.to(device) for part in task.train)))
        shared = share(first.method, task.train, settings, first.seed)
        start: Tensor | None = None
        n_done = 0
        for spec in self._path:
            folder = self._run.folder("networks", spec.network_id)
            if spec.network_id in products:
                self._train(task, spec, shared, start, products[spec.network_id], partial(_later, tick, n_done))
                n_done += 1
            point = load_network(folder).point
            start = None if point is None else point.to(task.train.x)

    def _train(
        self, task: Task, spec: NetworkSpec, shared: Shared, start: Tensor | None, product: Product, tick: Tick
    ) -> None:
        began = time.monotonic()
        settings = self._study.train
        learner = make_network_learner(spec, task.train, settings, shared, start)
        n_steps = spec.method.most_steps(settings.max_steps)

        def is_solved(_: StepRecord) -> bool:
            proof = learner.certificate
            return proof is not None and max(proof.relative_gap, proof.violation) <= settings.tolerance

        def lines(record: StepRecord) -> Iterator[dict[str, Any]]:
            if _is_logged(record.step) or record.step == n_steps or is_solved(record):
                line = {"network_id": spec.network_id, "step": record.step, "seconds": round(record.seconds, 4)}
                yield line | record.metrics

        def publish(record: StepRecord) -> None:
            folder = self._run.folder("networks", spec.network_id)
            point = learner.solution if isinstance(learner, ADMM) else None
            metadata = self._metadata(task, spec, learner, record)
            saved = SavedNetwork(learner.network(), task.preparation, metadata, point)
            save_network(folder, saved, unit=product.signature)

        training = Training(
            name=spec.network_id,
            learner=learner,
            batches=NoBatches(),
            n_steps=n_steps,
            checkpoint_every=settings.checkpoint_every,
            key="network_id",
            ids=lambda: [spec.network_id],
            lines=lines,
            show=lambda record: tick(0, f"{spec.network_id}: step {record.step:,}, objective {learner.objective:.6g}"),
            stop=is_solved,
            began=began,
        )
        learn(self._run, training, publish)

    def _metadata(self, task: Task, spec: NetworkSpec, learner: NetworkLearner, record: StepRecord) -> dict[str, Any]:
        proof = learner.certificate
        return {
            "network_id": spec.network_id,
            "study": self._study.name,
            "task": spec.task,
            "description": task.description,
            "family": spec.method.family,
            "method": spec.method.model_dump(mode="json"),
            "loss": self._study.train.loss,
            "beta": spec.beta,
            "seed": spec.seed,
            "n_train": len(task.train.y),
            "d": task.train.x.shape[1],
            "n_steps": record.step,
            "seconds": round(record.seconds, 4),
            "objective": learner.objective,
            **({} if proof is None else proof._asdict()),
        }


def _later(tick: Tick, n_done: int, amount: float, note: str) -> None:
    """A tick of the network after ``n_done`` others of its path."""
    tick(n_done + amount, note)


def _is_logged(step: int) -> bool:
    """The first hundred steps, then every tenth up to a thousand, then every hundredth."""
    return step <= 100 or (step <= 1000 and step % 10 == 0) or step % 100 == 0
