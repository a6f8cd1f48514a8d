"""Units of SAE training: banks of SAEs of one hookpoint that learn from one stream."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from core.devices import resolve_device
from core.files import write_json
from core.model_folder import CONFIG_FILE
from core.trainer import StepRecord
from hookpoints.batches import ShardBatches
from hookpoints.shards import ActivationDataset
from pipeline.activations import provenance_needs
from pipeline.progress import say
from pipeline.run_dir import RunDirectory
from pipeline.studies.saes.study import SAESpec, SAEStudy
from pipeline.units import Product, Tick, Training, Unit, learn
from saes.bank import Bank
from saes.io import save_sae
from saes.learner import SAELearner

STOPPED = "stopped.json"
"""In an SAE's folder: why its training was stopped, where it was."""
_L0_TOLERANCE = 0.1


def bank_units(study: SAEStudy, run: RunDirectory, dataset: ActivationDataset) -> list[Unit]:
    """Groups that train together; the same whatever is trained already."""
    size = study.train.bank_size
    units = []
    for hook_name in dataset.hook_names:
        specs = study.specs([hook_name])
        for number, start in enumerate(range(0, len(specs), size)):
            group = specs[start : start + size]
            products = [_product(study, run, dataset, spec) for spec in group]
            bank = _BankWork(study, run, dataset, f"{hook_name}-{number}", {spec.sae_id: spec for spec in group})
            units.append(Unit(products, bank.make))
    return units


def _product(study: SAEStudy, run: RunDirectory, dataset: ActivationDataset, spec: SAESpec) -> Product:
    folder = run.folder("saes", spec.sae_id)
    needs = {
        "activations": provenance_needs(dataset.manifest),
        "hook_name": spec.hook_name,
        "sae": spec.architecture(dataset.d_in(spec.hook_name)).as_dict(),
        "learner": asdict(spec.learner_config(study.train.learner)),
        "sparsity_coefficient": spec.sparsity_coefficient,
        "seed": spec.seed,
        "n_steps": study.train.n_steps,
        "batch_size": study.train.batch_size,
        "data_seed": study.train.data_seed,
    }
    return Product(spec.sae_id, needs, [folder / CONFIG_FILE, folder / STOPPED], size=study.train.n_steps)


class _BankWork:
    """How the missing SAEs of one bank are trained and published."""

    def __init__(
        self, study: SAEStudy, run: RunDirectory, dataset: ActivationDataset, name: str, specs: dict[str, SAESpec]
    ) -> None:
        self._study, self._run, self._dataset, self._name, self._specs = study, run, dataset, name, specs

    def make(self, missing: Sequence[Product], tick: Tick) -> None:
        """Train what is missing together."""
        settings, specs = self._study.train, [self._specs[product.name] for product in missing]
        bank = Bank({spec.sae_id: make_learner(self._study, self._dataset, spec) for spec in specs})
        bank.observe = partial(_show, bank, tick)
        with (
            _memory_advice(),
            ShardBatches(
                self._dataset, specs[0].hook_name, batch_size=settings.batch_size, seed=settings.data_seed
            ) as batches,
        ):
            training = Training(
                name=self._name,
                learner=bank,
                batches=batches,
                n_steps=settings.n_steps,
                checkpoint_every=settings.checkpoint_every,
                key="sae_id",
                ids=lambda: bank.members,
                lines=lambda record: self._lines(bank, record),
            )
            learn(self._run, training, lambda _: self._publish(bank, missing))

    def _lines(self, bank: Bank, record: StepRecord) -> Iterator[dict[str, Any]]:
        settings = self._study.train
        if record.step % settings.log_every == 0 or record.step == settings.n_steps:
            for sae_id in bank.active:
                yield {"sae_id": sae_id, "step": record.step, **bank.metrics[sae_id]}

    def _publish(self, bank: Bank, products: Sequence[Product]) -> None:
        for product in products:
            sae_id, folder = product.name, self._run.folder("saes", product.name)
            if sae_id in bank.stopped:
                write_json(folder / STOPPED, {"reason": bank.stopped[sae_id], "unit": product.signature})
                continue
            learner = bank.members[sae_id]
            _say_how_close(sae_id, bank, learner.config.target_l0)
            metadata = _metadata(self._study, self._dataset, self._specs[sae_id], learner)
            save_sae(folder, learner.trained_sae(), metadata, unit=product.signature)


def make_learner(study: SAEStudy, dataset: ActivationDataset, spec: SAESpec) -> SAELearner:
    """The learner of one SAE of the study, at step 0."""
    statistics = dataset.statistics(spec.hook_name)
    return SAELearner(
        spec.architecture(dataset.d_in(spec.hook_name)),
        spec.learner_config(study.train.learner),
        sparsity_coefficient=spec.sparsity_coefficient,
        n_steps=study.train.n_steps,
        seed=spec.seed,
        mean=statistics.mean,
        scale=statistics.scale,
        device=resolve_device(study.train.device),
    )


def _show(bank: Bank, tick: Tick, sae_id: str) -> None:
    """Members that cost the most do not stall the display: it moves with every member's step."""
    metrics = bank.metrics.get(sae_id)
    note = f"{sae_id}: loss {metrics['loss']:.1f}, L0 {metrics['l0']:.1f}" if metrics else sae_id
    tick(sum(member.step_number for member in bank.members.values()), note)


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


def _say_how_close(sae_id: str, bank: Bank, target_l0: float | None) -> None:
    """A target out of reach is said, and the nearest that steering found is kept."""
    l0 = bank.metrics[sae_id]["l0"]
    if target_l0 is not None and abs(l0 / target_l0 - 1) > _L0_TOLERANCE:
        say(
            f"train: {sae_id} ended at L0 {l0:.1f}, not {target_l0:g}; give more steps or a nearer lambda to start from"
        )


def _metadata(study: SAEStudy, dataset: ActivationDataset, spec: SAESpec, learner: SAELearner) -> dict[str, Any]:
    manifest = dataset.manifest
    return {
        "sae_id": spec.sae_id,
        "study": study.name,
        "hook_name": spec.hook_name,
        "model": manifest.model,
        "revision": manifest.revision,
        "model_hash": manifest.model_hash,
        "corpus": manifest.corpus,
        "context_length": manifest.harvest.context_length,
        "prepend_bos": bool(manifest.capture.bos_token_ids),
        "norm_bound": manifest.hooks[spec.hook_name].norm_bound,
        "sparsity_coefficient": spec.sparsity_coefficient,
        "seed": spec.seed,
        "n_steps": study.train.n_steps,
        "batch_size": study.train.batch_size,
        "training_scale": learner.scale,
        "n_dead_resets": learner.n_dead_resets,
        "final_sparsity_coefficient": learner.sparsity_coefficient * learner.coefficient_factor,
        "learner": asdict(learner.config),
    }
