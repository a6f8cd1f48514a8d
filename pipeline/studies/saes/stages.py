"""One function per stage: read artifacts, write artifacts. Each makes what is missing and leaves the rest alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from eval.saes.metrics import evaluate
from eval.saes.report import Provenance, ReportFiles, write_report
from hookpoints.batches import ShardBatches
from hookpoints.corpus import CorpusConfig
from core.files import read_json, write_json
from hookpoints.harvest import HarvestConfig, harvest, is_complete
from core.model_folder import is_model_complete
from hookpoints.models import ModelConfig, load_model, model_id, resolve_device
from hookpoints.shards import ActivationDataset
from pipeline.studies.saes.study import RunConfig, SAESpec
from pipeline.table import read_evaluation, require_trained, study_facts, without_nan, write_evaluation
from pipeline.progress import Display, progress, say
from pipeline.run_dir import RunDirectory, append_line, exclusive
from core.trainer import Checkpoints, fit
from saes.bank import Bank
from saes.io import read_sae, save_sae
from saes.learner import SAELearner

_EVALUATION = "eval.json"
_L0_TOLERANCE = 0.1


def harvest_stage(config: RunConfig, run: RunDirectory) -> None:
    """Text -> activation shards."""
    harvest_activations(config.model, config.corpus, config.harvest, config.activations_path)


def harvest_activations(model: ModelConfig, corpus: CorpusConfig, config: HarvestConfig, folder: Path) -> None:
    """Read text with a model and write activation shards to a folder, or what it lacks of them."""
    if is_complete(folder):
        _check_same_harvest(model, corpus, config, folder)
        say(f"harvest: complete in {folder}")
        return
    with exclusive(folder):
        say(f"harvest: loading {model_id(model)}")
        language_model = load_model(model)
        device = language_model.model.device
        say(f"harvest: {language_model.model_id} in {language_model.model.dtype} on {device}, into {folder}")
        with progress("harvest", config.n_tokens, "tokens") as display:
            for state in harvest(language_model, corpus, config, folder):
                display.set_total(state.total_tokens)
                display.update(state.n_tokens, f"{state.n_bytes / 1e6:,.0f} MB")
    manifest = read_json(folder / "manifest.json")
    n_rows = manifest["n_rows"]
    say(
        f"harvest: {n_rows['train']:,} training and {n_rows['held_out']:,} held-out rows from {manifest['n_tokens']:,} tokens"
    )
    if manifest["n_tokens"] < 0.98 * config.n_tokens:
        say(f"harvest: the corpus ended before the {config.n_tokens:,} tokens asked for")


def train_stage(config: RunConfig, run: RunDirectory) -> None:
    """Activation shards -> SAE folders. SAEs of a hookpoint learn together, from one pass over its shards."""
    dataset = ActivationDataset(config.activations_path)
    specs = config.specs(dataset.hook_names)
    groups = list(_banks(config, dataset.hook_names))
    missing = [spec for spec in specs if not run.is_done(spec.sae_id)]
    say(f"train: {len(missing)} of {len(specs)} SAEs to train, {config.train.n_steps:,} steps each")
    with progress("train", len(missing) * config.train.n_steps, "SAE steps") as display:
        finished = 0
        for name, group in groups:
            todo = [spec for spec in group if not run.is_done(spec.sae_id)]
            if todo:
                with _memory_advice():
                    _train_bank(config, run, dataset, name, todo, display, finished)
            finished += len(todo) * config.train.n_steps
    for sae_id, reason in run.stopped_saes(spec.sae_id for spec in specs).items():
        say(f"train: stopped {reason} (to try again, delete {run.sae_folder(sae_id)})")
    say(f"train: {sum(is_model_complete(run.sae_folder(spec.sae_id)) for spec in specs)} SAEs in {run.path / 'saes'}")


@contextmanager
def _memory_advice() -> Iterator[None]:
    """An accelerator's out-of-memory error, with the settings to lower."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"the device ran out of memory while training ({error}); lower train.bank_size, train.batch_size or d_sae. "
            "The last checkpoint is kept: a lower bank_size needs a new run_dir, which may share activations"
        ) from error


def _banks(config: RunConfig, hook_names: list[str]) -> Iterator[tuple[str, list[SAESpec]]]:
    """Groups that train together, named; the same whatever is trained already."""
    size = config.train.bank_size
    for hook_name in hook_names:
        specs = config.specs([hook_name])
        for number, start in enumerate(range(0, len(specs), size)):
            yield f"{hook_name}-{number}", specs[start : start + size]


def _train_bank(
    config: RunConfig,
    run: RunDirectory,
    dataset: ActivationDataset,
    name: str,
    specs: list[SAESpec],
    display: Display,
    finished: int,
) -> None:
    train = config.train
    batches = ShardBatches(dataset, specs[0].hook_name, batch_size=train.batch_size, seed=train.data_seed)
    bank = Bank({spec.sae_id: make_learner(config, dataset, spec) for spec in specs})
    checkpoints = Checkpoints(run.checkpoint_path(name), train.checkpoint_every)

    def show(sae_id: str) -> None:
        """Members that cost the most do not stall the display: it moves with every member's step."""
        n_done = sum(member.step_number for member in bank.members.values())
        metrics = bank.metrics.get(sae_id)
        note = f"{sae_id}: loss {metrics['loss']:.1f}, L0 {metrics['l0']:.1f}" if metrics else sae_id
        display.update(finished + n_done, note)

    bank.observe = show
    is_first_record = True
    for record in fit(bank, batches, steps=train.n_steps, checkpoints=checkpoints):
        if is_first_record:
            run.forget_metrics_after(set(bank.members), record.step - 1)
            is_first_record = False
        if record.step % train.log_every == 0 or record.step == train.n_steps:
            for sae_id in bank.active:
                append_line(run.metrics_path, {"sae_id": sae_id, "step": record.step, **bank.metrics[sae_id]})
    for spec in specs:
        if spec.sae_id in bank.stopped:
            write_json(run.stopped_path(spec.sae_id), {"reason": bank.stopped[spec.sae_id]})
        else:
            learner = bank.members[spec.sae_id]
            metadata = _metadata(config, dataset, spec, learner)
            _say_how_close(spec, bank, learner.config.target_l0)
            save_sae(run.sae_folder(spec.sae_id), learner.trained_sae(), metadata)
    checkpoints.path.unlink(missing_ok=True)


def _say_how_close(spec: SAESpec, bank: Bank, target_l0: float | None) -> None:
    """A target out of reach is said, and the nearest that steering found is kept."""
    l0 = bank.metrics[spec.sae_id]["l0"]
    if target_l0 is not None and abs(l0 / target_l0 - 1) > _L0_TOLERANCE:
        say(
            f"train: {spec.sae_id} ended at L0 {l0:.1f}, not {target_l0:g}; give more steps or a nearer lambda to start from"
        )


def make_learner(config: RunConfig, dataset: ActivationDataset, spec: SAESpec) -> SAELearner:
    """The learner of one SAE of the study, at step 0."""
    statistics = dataset.statistics(spec.hook_name)
    return SAELearner(
        spec.sae_config(dataset.d_in(spec.hook_name)),
        spec.learner_config(config.train.learner),
        sparsity_coefficient=spec.sparsity_coefficient,
        n_steps=config.train.n_steps,
        seed=spec.seed,
        mean=statistics.mean,
        scale=statistics.scale,
        device=resolve_device(config.train.device),
    )


def _metadata(config: RunConfig, dataset: ActivationDataset, spec: SAESpec, learner: SAELearner) -> dict[str, Any]:
    manifest = dataset.manifest
    return {
        "sae_id": spec.sae_id,
        "study": config.name,
        "hook_name": spec.hook_name,
        "model": manifest["model"],
        "revision": manifest["revision"],
        "model_hash": manifest["model_hash"],
        "corpus": manifest["corpus"],
        "context_length": manifest["harvest"]["context_length"],
        "prepend_bos": manifest["harvest"]["prepend_bos"],
        "norm_bound": manifest["hooks"][spec.hook_name]["norm_bound"],
        "sparsity_coefficient": spec.sparsity_coefficient,
        "seed": spec.seed,
        "n_steps": config.train.n_steps,
        "batch_size": config.train.batch_size,
        "training_scale": learner.scale,
        "n_dead_resets": learner.n_dead_resets,
        "final_sparsity_coefficient": learner.sparsity_coefficient * learner.coefficient_factor,
        "learner": asdict(learner.config),
    }


def eval_stage(config: RunConfig, run: RunDirectory) -> None:
    """SAE folders -> eval.csv, one row per SAE."""
    dataset = ActivationDataset(config.activations_path)
    specs = config.specs(dataset.hook_names)
    missing = [spec.sae_id for spec in specs if not run.is_done(spec.sae_id)]
    require_trained(missing, len(specs), "SAEs")
    specs = [spec for spec in specs if is_model_complete(run.sae_folder(spec.sae_id))]
    device = resolve_device(config.eval.device)
    with progress("eval", len(specs), "SAEs") as display:
        for number, spec in enumerate(specs):
            path = run.sae_folder(spec.sae_id) / _EVALUATION
            if not path.exists():
                sae = read_sae(run.sae_folder(spec.sae_id), device).sae
                evaluation = evaluate(sae, dataset, spec.hook_name, min_fires=config.eval.min_fires)
                write_json(path, without_nan(evaluation._asdict()))
            display.update(number + 1, spec.sae_id)
    write_evaluation(run, [_row(run, spec) for spec in specs])


def _row(run: RunDirectory, spec: SAESpec) -> dict[str, Any]:
    saved = read_sae(run.sae_folder(spec.sae_id))
    cfg, metadata = saved.sae.cfg, saved.metadata
    return {
        "sae_id": spec.sae_id,
        "architecture": cfg.architecture,
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "n_params": cfg.n_params,
        "hook_name": spec.hook_name,
        "seed": spec.seed,
        "sparsity_coefficient": spec.sparsity_coefficient,
        **read_json(run.sae_folder(spec.sae_id) / _EVALUATION),
        "tying": cfg.tying,
        "one_sided": cfg.one_sided,
        "auxiliary_loss": metadata["learner"]["auxiliary_loss"],
        "threshold_init": metadata["learner"]["threshold_init"],
        "n_dead_resets": metadata["n_dead_resets"],
        "final_sparsity_coefficient": metadata["final_sparsity_coefficient"],
        "n_steps": metadata["n_steps"],
    }


def report_stage(config: RunConfig, run: RunDirectory) -> ReportFiles:
    """eval.csv -> report.html, verdicts.csv, plots."""
    table = read_evaluation(run)
    dataset = ActivationDataset(config.activations_path)
    stopped = run.stopped_saes(spec.sae_id for spec in config.specs(dataset.hook_names))
    facts = study_facts(config, run)
    provenance = Provenance(facts, dataset.manifest, stopped)
    files = write_report(run.path, table, provenance)
    say(f"report: {files.html}")
    return files


def _check_same_harvest(model: ModelConfig, corpus: CorpusConfig, config: HarvestConfig, folder: Path) -> None:
    """Activations shared between studies must be the ones this study describes."""
    manifest = read_json(folder / "manifest.json")
    given = {"corpus_config": corpus.model_dump(mode="json"), "harvest": config.model_dump(mode="json")}
    differing = [name for name, value in given.items() if manifest[name] != value]
    if manifest["model"] != model_id(model):
        differing.append("model")
    if differing:
        raise ValueError(
            f"{folder} holds activations of another harvest (it differs in {', '.join(differing)}); "
            "set activations to another folder, or delete it"
        )
