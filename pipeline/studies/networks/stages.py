"""The stages of a network study: rows -> network folders -> eval.csv -> report."""

from typing import Any

import pandas as pd

from core.files import read_json, write_json
from core.model_folder import read_config
from eval.networks.metrics import evaluate_network
from eval.networks.report import NetworkProvenance, network_report
from eval.networks.verdicts import network_sentences
from eval.page.report import write_report
from hookpoints.manifest import read_manifest
from pipeline.activations import activation_costs, harvest_activations
from pipeline.progress import say
from pipeline.run_dir import RunDirectory
from pipeline.studies.networks.paths import Tasks, path_units
from pipeline.studies.networks.study import ActivationData, CSVData, NetworkSpec, NetworkStudy
from pipeline.study import Summary
from pipeline.table import for_people, read_evaluation, require_trained, study_facts, without_nan, write_evaluation
from pipeline.units import Product, Unit, make_missing, missing_products
from twolayer.certificate import Certificate
from twolayer.io import load_network

_EVALUATION = "eval.json"
_AFTER_TRAINING = ["network_id", "task", "family", "beta", "seed", "loss", "n_train", "d", "n_steps", "seconds"]
_SHOWN = {
    "task": "task",
    "label": "method",
    "beta": "beta",
    "seed": "seed",
    "objective": "objective",
    "relative_gap": "gap",
    "violation": "violation",
    "train_score": "train",
    "test_score": "test",
    "seconds": "seconds",
}


def harvest(study: NetworkStudy, run: RunDirectory) -> None:
    """Text -> activation shards, where the study reads activations."""
    data = study.data
    if isinstance(data, ActivationData):
        harvest_activations(data.model, data.corpus, data.harvest, study.activations_path)
    else:
        say(f"harvest: nothing to do, the rows are {data.source}")


def train(study: NetworkStudy, run: RunDirectory) -> None:
    """Rows -> network folders. Betas of one method and seed follow each other down, each starting from the one before."""
    specs, units = study.specs(), path_units(study, run)
    n_missing = len(missing_products(units))
    say(f"train: {n_missing} of {len(specs)} networks to train")
    make_missing(units, title="train", counted="networks")
    say(f"train: {len(specs)} networks in {run.path / 'networks'}")


def evaluate(study: NetworkStudy, run: RunDirectory) -> None:
    """Network folders -> eval.csv, one row per network."""
    specs = study.specs()
    trained = path_units(study, run)
    require_trained(missing_products(trained), len(specs), "networks")
    of_network = {product.name: product for unit in trained for product in unit.products}
    tasks = Tasks(study)
    units = [_evaluation(study, run, tasks, spec, of_network[spec.network_id]) for spec in specs]
    make_missing(units, title="eval", counted="networks")
    write_evaluation(study, run, [_row(run, spec) for spec in specs])


def report(study: NetworkStudy, run: RunDirectory) -> None:
    """eval.csv and metrics.jsonl -> report.html, verdicts.csv, plots."""
    table = read_evaluation(run)
    manifest = read_manifest(study.activations_path) if isinstance(study.data, ActivationData) else None
    descriptions = {spec.task: _metadata(run, spec)["description"] for spec in study.specs()}
    facts = study_facts(study, run)
    trace = pd.read_json(run.metrics_path, lines=True)
    described = network_report(table, trace, NetworkProvenance(facts, descriptions, manifest))
    say(f"report: {write_report(run.path, described).html}")


def costs(study: NetworkStudy) -> list[tuple[str, str]]:
    """What the study costs."""
    data = study.data
    facts = [
        ("run directory", str(study.run_path)),
        ("tasks", ", ".join(study.tasks)),
        ("networks", f"{len(study.specs())}: {len(study.train.methods)} methods, betas, seeds"),
    ]
    if isinstance(data, ActivationData):
        facts += activation_costs(data.model, data.harvest)
    if isinstance(data, CSVData):
        return [*facts, ("rows", data.path)]
    n = data.n_train
    return [*facts, ("memory of a linear step", f"{8 * n * n / 1e9:,.2f} GB (n x n, {n:,} training rows)")]


def summary(run: RunDirectory) -> Summary:
    """The table of networks, and what it says of every task."""
    table = read_evaluation(run)
    verdicts = {str(task): network_sentences(table, str(task)) for task in table["task"].unique()}
    return Summary(for_people(table, _SHOWN), verdicts)


def _evaluation(study: NetworkStudy, run: RunDirectory, tasks: Tasks, spec: NetworkSpec, network: Product) -> Unit:
    folder = run.folder("networks", spec.network_id)
    needs = {"network": network.fingerprint, "eval": study.eval.model_dump(mode="json")}
    product = Product(spec.network_id, needs, [folder / _EVALUATION], may_be_redone=True)

    def make(*_: object) -> None:
        task = tasks.get(spec.task)
        measured = evaluate_network(
            load_network(folder).network,
            task.train,
            task.validation,
            task.test,
            beta=spec.beta,
            loss=study.train.loss,
            epsilons=study.eval.epsilons,
            pgd_steps=study.eval.pgd_steps,
        )
        write_json(folder / _EVALUATION, {**without_nan(measured), "unit": product.signature})

    return Unit([product], make)


def _metadata(run: RunDirectory, spec: NetworkSpec) -> dict[str, Any]:
    folder = run.folder("networks", spec.network_id)
    return read_config(folder, "network", "runs/<study>/networks/<network_id>")["metadata"]


def _row(run: RunDirectory, spec: NetworkSpec) -> dict[str, Any]:
    """Of eval.csv; no bound where the method proves none."""
    metadata = _metadata(run, spec)
    measured = read_json(run.folder("networks", spec.network_id) / _EVALUATION)
    is_certified = spec.method.is_certified
    proof = {name: metadata.get(name) if is_certified else None for name in Certificate._fields}
    return {
        **{name: metadata[name] for name in _AFTER_TRAINING},
        **proof,
        "objective": metadata["objective"],
        "method": spec.method.method,
        "label": spec.method.label,
        "is_certified": is_certified,
        **{name: value for name, value in measured.items() if name != "unit"},
    }
