"""The stages of an XOR-cluster study: descents -> eval.csv -> report."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from core.files import read_json, write_json
from core.trainer import NoBatches, StepRecord
from eval.page.report import write_report
from eval.xor.metrics import measure
from eval.xor.report import xor_report
from eval.xor.verdicts import quantile_table, sentences
from pipeline.progress import say
from pipeline.run_dir import RunDirectory
from pipeline.studies.xor.study import XORStudy
from pipeline.study import Summary
from pipeline.table import for_people, read_evaluation, read_verdicts, study_facts, write_evaluation
from pipeline.units import (
    Found,
    Needs,
    Product,
    Tick,
    Training,
    Unit,
    checkpoints_of,
    clear_checkpoints,
    learn,
    look,
    made_from,
    make_missing,
    require_trained,
    say_found,
)
from pipeline.values import without_nan
from twolayer.xor.descent import DESCENTS, Descent, MeasuredDescent

_CHECKPOINT_EVERY = 1000
_SHOWN = {
    "learning_rate": "rate",
    "step": "step",
    "train_accuracy_median": "train",
    "test_accuracy_q20": "test 20 %",
    "test_accuracy_median": "test",
    "test_accuracy_q80": "test 80 %",
    "own_feature_share_median": "own feature",
    "linear_slope_median": "slope",
}


def harvest(study: XORStudy, run: RunDirectory) -> None:
    """Nothing: clusters are drawn from the seeds."""
    say("harvest: nothing to do, clusters are drawn from the seeds")


def train(study: XORStudy, run: RunDirectory) -> None:
    """One descent per learning rate and seed, measured on its way."""
    units = _units(study, run)
    found = _found(units)
    clear_checkpoints(found)
    say_found("train", found, "descents", _others(study, run))
    make_missing(units, title="train", counted="descents")


def evaluate(study: XORStudy, run: RunDirectory) -> None:
    """Measured descents -> eval.csv, one row per descent and step."""
    found = _found(_units(study, run))
    require_trained(found, "descents")
    rows = []
    for run_id, learning_rate, seed in study.run_ids():
        for one in _measured(run, run_id):
            values = {name: value for name, value in one.items() if name != "projections"}
            rows.append({"run_id": run_id, "learning_rate": learning_rate, "seed": seed, **values})
    write_evaluation(study, run, rows, made_from([one.product for one in found]))


def report(study: XORStudy, run: RunDirectory) -> None:
    """eval.csv and projections -> report.html, verdicts.csv, plots."""
    found = _found(_units(study, run))
    require_trained(found, "descents")
    table = read_evaluation(run, made_from([one.product for one in found]))
    projections: dict[float, dict[int, list[list[float]]]] = {}
    for run_id, learning_rate, _ in study.run_ids():
        for one in _measured(run, run_id):
            if one["projections"] is not None:
                projections.setdefault(learning_rate, {}).setdefault(one["step"], []).extend(one["projections"])
    made = {"descents": [one.environment for one in found]}
    facts = study_facts(study, run, made, [f"descents/{name}" for name in _others(study, run)])
    files = write_report(run.out, xor_report(table, projections, study.data, facts))
    say(f"report: {files.html}")


def costs(study: XORStudy) -> list[tuple[str, str]]:
    """What the study costs."""
    data, n_runs, n_steps = study.data, len(study.run_ids()), study.train.n_steps
    n_products = (data.n_train + data.n_neurons) * (data.n_train + data.n_test)
    of_products = 2.0 * n_runs * n_products * data.n_features
    of_steps = 2.0 * n_runs * n_steps * data.n_neurons * data.n_train**2
    return [
        ("run directory", str(study.run_path)),
        ("descents", f"{n_runs} of {n_steps:,} steps"),
        ("inner products", f"{of_products:.2e} floating-point operations"),
        ("steps", f"{of_steps:.2e} floating-point operations"),
    ]


def summary(run: RunDirectory) -> Summary:
    """Medians and quantiles, and the verdicts that the report holds."""
    return Summary(for_people(quantile_table(read_evaluation(run)), _SHOWN), sentences(read_verdicts(run)))


def _path(run: RunDirectory, run_id: str) -> Path:
    return run.folder("descents", f"{run_id}.json")


def _measured(run: RunDirectory, run_id: str) -> list[dict[str, Any]]:
    return read_json(_path(run, run_id))["measured"]


def _others(study: XORStudy, run: RunDirectory) -> list[str]:
    """Descents that lie in the run directory and are no part of the study."""
    ours = {f"{run_id}.json" for run_id, _, _ in study.run_ids()}
    return [name for name in run.names("descents") if name not in ours]


def _found(units: Sequence[Unit]) -> list[Found]:
    return [look(product) for unit in units for product in unit.products]


def _units(study: XORStudy, run: RunDirectory) -> list[Unit]:
    units = []
    for run_id, learning_rate, seed in study.run_ids():
        needs = {
            "data": study.to_dict()["data"],
            "method": study.train.method,
            "n_steps": study.train.n_steps,
            "learning_rate": learning_rate,
            "seed": seed,
            **_measurements(study),
        }
        product = Product(
            run_id, needs, [_path(run, run_id)], slot=run.slot(run_id), is_redone=partial(_is_measured_otherwise, needs)
        )
        units.append(Unit([product], partial(_descend, study, run, product, learning_rate, seed)))
    return units


def _measurements(study: XORStudy) -> dict[str, Any]:
    """What a descent is asked on its way."""
    return {"steps": study.measured_steps, "projection_steps": sorted(study.eval.projection_steps)}


def _is_measured_otherwise(needs: Needs, there: Needs) -> bool:
    """The same descent, measured at other steps: it is run again, since a measurement needs the weights of its step."""
    others = {"steps", "projection_steps"}
    return {k: v for k, v in needs.items() if k not in others} == {k: v for k, v in there.items() if k not in others}


def _descend(
    study: XORStudy, run: RunDirectory, product: Product, learning_rate: float, seed: int, _: object, tick: Tick
) -> None:
    def measured(descent: Descent, step: int) -> dict[str, Any]:
        wants_projections = step in study.eval.projection_steps
        projections = descent.projections().tolist() if wants_projections else None
        return {"step": step, **without_nan(measure(descent.snapshot())), "projections": projections}

    descent = DESCENTS[study.train.method](study.data, seed=seed, learning_rate=learning_rate)
    learner = MeasuredDescent(descent, study.measured_steps, measured)

    def publish(_: StepRecord) -> None:
        facts = {"run_id": product.name, "learning_rate": learning_rate, "seed": seed}
        write_json(_path(run, product.name), {**facts, "measured": learner.measured, "unit": product.signature})

    def lines(record: StepRecord) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if record.step in study.measured_steps:
            yield product.name, record.metrics

    training = Training(
        products=[product],
        learner=learner,
        batches=NoBatches(),
        n_steps=study.train.n_steps,
        checkpoints=checkpoints_of(product, _CHECKPOINT_EVERY),
        lines=lines,
        show=lambda record: tick(record.step / study.train.n_steps, f"{product.name}: step {record.step}"),
    )
    learn(run, training, publish)
