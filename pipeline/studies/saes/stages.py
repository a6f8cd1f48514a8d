"""The stages of an SAE study: activation shards -> SAE folders -> eval.csv -> report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.files import read_json
from core.model_folder import is_model_complete, read_config
from eval.page.report import write_report
from eval.saes.families import labels
from eval.saes.report import Provenance, sae_report
from eval.saes.verdicts import concentration, sentences
from hookpoints.models import model_shape
from hookpoints.shards import ActivationDataset
from hookpoints.sites import resolve_hookpoint
from pipeline.activations import activation_costs, harvest_activations, open_activations, say_if_new
from pipeline.progress import say
from pipeline.run_dir import RunDirectory
from pipeline.studies.saes.banks import STOPPED, bank_units, sae_product
from pipeline.studies.saes.evaluations import Evaluations
from pipeline.studies.saes.study import SAESpec, SAEStudy
from pipeline.study import Summary
from pipeline.table import for_people, read_evaluation, read_verdicts, study_facts, write_evaluation
from pipeline.units import (
    Found,
    clear_checkpoints,
    look,
    made_from,
    make_missing,
    named,
    products_of,
    require_trained,
    say_found,
)
from saes.architectures import architecture_of

_SHOWN = {
    "hook_name": "hookpoint",
    "architecture": "architecture",
    "d_sae": "d_sae",
    "sparsity_coefficient": "lambda",
    "seed": "seed",
    "l0": "L0",
    "r_squared": "R2",
    "loss_recovered": "loss rec.",
    "dead_fraction": "dead",
    "bipolar_fraction": "bipolar",
}


def harvest(study: SAEStudy, run: RunDirectory) -> None:
    """Text -> activation shards."""
    say_if_new(study.activations_path, study.activations)
    harvest_activations(study.described, study.activations_path, study.name)


def train(study: SAEStudy, run: RunDirectory) -> None:
    """Activation shards -> SAE folders. SAEs of a hookpoint learn together, from one pass over its shards."""
    there = _look(study, run)
    clear_checkpoints(there.found)
    say_found("train", there.found, "SAEs", _others(run, there.specs))
    units = bank_units(study, run, there.dataset, there.found, there.specs)
    make_missing(units, title="train", counted="SAE steps")
    for sae_id, reason in _stopped(run, there.specs).items():
        say(f"train: stopped {reason} (to try again, delete {_folder(run, sae_id)})")
    say(f"train: {len(_trained(run, there.specs))} SAEs in {run.path / 'saes'}")


def evaluate(study: SAEStudy, run: RunDirectory) -> None:
    """SAE folders -> eval.csv, one row per SAE."""
    there = _look(study, run)
    require_trained(there.found, "SAEs")
    specs = _trained(run, there.specs)
    evaluations = _evaluations(study, run, there, specs)
    units = evaluations.units()
    make_missing(units, title="eval", counted="measurements")
    write_evaluation(study, run, _rows(study, run, specs, evaluations), made_from(products_of(units)))
    for title, said in concentration(read_evaluation(run)).items():
        say(f"eval: warning: {title}. {said[0]}")


def report(study: SAEStudy, run: RunDirectory) -> None:
    """eval.csv -> report.html, verdicts.csv, plots."""
    there = _look(study, run)
    require_trained(there.found, "SAEs")
    trained = _trained(run, there.specs)
    evaluations = _evaluations(study, run, there, trained)
    products = products_of(evaluations.units())
    table = read_evaluation(run, made_from(products))
    made = {
        "harvest": there.dataset.view.manifest.environments,
        "SAEs": [one.environment for one in there.found],
        "evaluations": [look(product).environment for product in products],
    }
    facts = study_facts(study, run, made, [f"saes/{name}" for name in _others(run, there.specs)])
    documents = {spec.sae_id: evaluations.documents(spec.sae_id) for spec in trained}
    provenance = Provenance(
        facts, there.dataset.view, _stopped(run, there.specs), documents, evaluations.latents, study.eval.min_fires
    )
    described = sae_report(table, provenance, study.selectors)
    say(f"report: {write_report(run.out, described).html}")


class _There(NamedTuple):
    """What there is of a study."""

    dataset: ActivationDataset
    specs: list[SAESpec]
    found: list[Found]
    """One for each."""


def _look(study: SAEStudy, run: RunDirectory) -> _There:
    dataset = open_activations(study.described, study.activations_path)
    specs = study.specs(dataset.hook_names)
    return _There(dataset, specs, [look(sae_product(study, run, dataset, spec)) for spec in specs])


def _evaluations(study: SAEStudy, run: RunDirectory, there: _There, specs: Sequence[SAESpec]) -> Evaluations:
    return Evaluations(
        study, run, there.dataset, specs, {spec.sae_id: named(there.found, spec.sae_id) for spec in specs}
    )


def _others(run: RunDirectory, specs: Sequence[SAESpec]) -> list[str]:
    """SAEs that lie in the run directory and are no part of the study."""
    ours = {spec.sae_id for spec in specs}
    return [name for name in run.names("saes") if name not in ours]


def costs(study: SAEStudy) -> list[tuple[str, str]]:
    """What the study costs, from the study and the model's configuration; no weights are read."""
    shape = model_shape(study.model)
    hookpoints = [resolve_hookpoint(hookpoint, shape.n_layers) for hookpoint in study.harvest.hookpoints]
    specs = study.specs([hookpoint.name for hookpoint in hookpoints])
    architectures = [spec.architecture(shape.d_model) for spec in specs]
    settings = study.train
    n_params = sum(one.n_params for one in architectures)
    rows_seen = settings.n_steps * settings.batch_size
    epochs = rows_seen / (study.harvest.n_contexts["train"] * study.harvest.context_length)
    flops = float(sum(2 * rows_seen * one.d_in * one.d_sae for one in architectures))
    n_steps = len(specs) * settings.n_steps
    return [
        ("run directory", str(study.run_path)),
        ("hookpoints", ", ".join(hookpoint.name for hookpoint in hookpoints)),
        *activation_costs(study.model, study.harvest),
        ("SAEs", f"{len(specs)}, {n_params / 1e6:,.1f} M parameters in all, {4 * n_params / 1e9:,.2f} GB"),
        ("steps", f"{n_steps:,} ({settings.n_steps:,} per SAE), {epochs:.1f} passes over the training rows"),
        ("encoder products", f"{flops:.2e} floating-point operations"),
    ]


def summary(run: RunDirectory) -> Summary:
    """The table of SAEs, and the verdicts that the report holds: none without a pair to compare."""
    table, verdicts = read_evaluation(run), read_verdicts(run)
    said = sentences(verdicts) if len(verdicts) else {}
    shown = {column: name for column, name in _SHOWN.items() if column in table}
    return Summary(for_people(table, shown), concentration(table) | said)


def _folder(run: RunDirectory, sae_id: str) -> Path:
    return run.folder("saes", sae_id)


def _trained(run: RunDirectory, specs: list[SAESpec]) -> list[SAESpec]:
    return [spec for spec in specs if is_model_complete(_folder(run, spec.sae_id))]


def _stopped(run: RunDirectory, specs: list[SAESpec]) -> dict[str, str]:
    """Why SAEs were stopped; those that were not are left out."""
    paths = {spec.sae_id: _folder(run, spec.sae_id) / STOPPED for spec in specs}
    return {sae_id: read_json(path)["reason"] for sae_id, path in paths.items() if path.exists()}


def _rows(study: SAEStudy, run: RunDirectory, specs: list[SAESpec], evaluations: Evaluations) -> list[dict[str, Any]]:
    """Of eval.csv."""
    said: dict[str, str] = {}
    for hook_name in dict.fromkeys(spec.hook_name for spec in specs):
        of_hook = study.specs([hook_name])
        members = [(spec.architecture(1), spec.learner_config(study.train.learner)) for spec in of_hook]
        said |= {spec.sae_id: label for spec, label in zip(of_hook, labels(members), strict=True)}
    return [_row(study, run, spec, said[spec.sae_id], evaluations.values(spec)) for spec in specs]


def _row(
    study: SAEStudy, run: RunDirectory, spec: SAESpec, label: str, measured: Mapping[str, float | None]
) -> dict[str, Any]:
    folder = _folder(run, spec.sae_id)
    config = read_config(folder, "SAE", "runs/<study>/saes/<sae_id>")
    cfg = architecture_of(config.of(dict, "sae"))
    return {
        "sae_id": spec.sae_id,
        "architecture": cfg.name,
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "n_params": cfg.n_params,
        "hook_name": spec.hook_name,
        "seed": spec.seed,
        "sparsity_coefficient": spec.sparsity_coefficient,
        **measured,
        **spec.columns(study.train.learner),
        "n_dead_resets": config.of(int, "metadata", "n_dead_resets"),
        "final_sparsity_coefficient": config.of(float, "metadata", "final_sparsity_coefficient"),
        "n_steps": config.of(int, "metadata", "n_steps"),
        "n_training_rows": config.of(int, "metadata", "n_training_rows"),
        "family": spec.family,
        "label": label,
        "is_signed": cfg.is_signed,
    }
