"""Units of SAE training: banks of SAEs of one hookpoint that learn from one stream.

Every SAE has a checkpoint of its own and learns bit for bit what it would learn alone, so a bank is only who learns side by side:
those that are at the same step of the same rows, as many as `train.bank_size` says at the time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from core.checkpoints import State
from core.devices import resolve_device
from core.files import write_json
from core.model_folder import CONFIG_FILE
from core.trainer import Checkpoints, StepRecord
from hookpoints.batches import ShardBatches
from hookpoints.shards import ActivationDataset
from pipeline.activations import extent_made_from, row_needs
from pipeline.progress import say
from pipeline.run_dir import RunDirectory
from pipeline.studies.saes.study import SAESpec, SAEStudy
from pipeline.units import Found, Needs, Product, Tick, Training, Unit, learn, saved_state
from saes.bank import Bank
from saes.io import save_sae
from saes.learner import SAELearner

STOPPED = "stopped.json"
"""In an SAE's folder: why its training was stopped, where it was."""
_L0_TOLERANCE = 0.1


def sae_product(study: SAEStudy, run: RunDirectory, dataset: ActivationDataset, spec: SAESpec) -> Product:
    """An SAE of the study, with what it is a function of."""
    folder = run.folder("saes", spec.sae_id)
    needs = {
        "rows": row_needs(dataset.view),
        "hook_name": spec.hook_name,
        "sae": spec.architecture(dataset.d_in(spec.hook_name)).as_dict(),
        "learner": asdict(spec.learner_config(study.train.learner)),
        "sparsity_coefficient": spec.sparsity_coefficient,
        "seed": spec.seed,
        "n_steps": study.train.n_steps,
        "batch_size": study.train.batch_size,
        "data_seed": study.train.data_seed,
    }
    return Product(
        spec.sae_id,
        needs,
        [folder / CONFIG_FILE, folder / STOPPED],
        size=study.train.n_steps,
        slot=run.slot(spec.sae_id),
        kept=partial(_why_kept, dataset, needs),
    )


def _why_kept(dataset: ActivationDataset, needs: Needs, there: Needs) -> str | None:
    """An SAE that differs only in how much of the text it was trained on stays as it is."""
    others = {name: value for name, value in there.items() if name != "rows"}
    extent = extent_made_from(dataset.view, there.get("rows", {}))
    if extent is None or others != {name: value for name, value in needs.items() if name != "rows"}:
        return None
    n_rows = dataset.view._replace(number=extent).n_rows["train"]
    return f"with the {n_rows:,} training rows of {dataset.view.manifest.extents[extent].n_tokens:,} tokens that they began with"


def bank_units(
    study: SAEStudy, run: RunDirectory, dataset: ActivationDataset, found: Sequence[Found], specs: Sequence[SAESpec]
) -> list[Unit]:
    """The missing ones of the SAEs ``found``, in groups that train together."""
    together: dict[tuple[str, int, int], list[tuple[Product, SAESpec]]] = {}
    for one, spec in zip(found, specs, strict=True):
        if not one.is_done:
            extent = extent_made_from(dataset.view, one.product.needs["rows"])
            assert extent is not None
            together.setdefault((spec.hook_name, extent, one.step), []).append((one.product, spec))
    units = []
    for (_, extent, _), members in together.items():
        for start in range(0, len(members), study.train.bank_size):
            group = members[start : start + study.train.bank_size]
            work = _BankWork(study, run, dataset.within(extent), {product.name: spec for product, spec in group})
            units.append(Unit([product for product, _ in group], work.make))
    return units


class _BankWork:
    """How the SAEs of one bank are trained and published."""

    def __init__(
        self, study: SAEStudy, run: RunDirectory, dataset: ActivationDataset, specs: Mapping[str, SAESpec]
    ) -> None:
        self._study, self._run, self._dataset, self._specs = study, run, dataset, specs

    def make(self, missing: Sequence[Product], tick: Tick) -> None:
        """Train them together."""
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
                products=missing,
                learner=bank,
                batches=batches,
                n_steps=settings.n_steps,
                checkpoints=_checkpoints(missing, settings.checkpoint_every),
                lines=partial(self._lines, bank),
            )
            learn(self._run, training, lambda _: self._publish(bank, missing))

    def _lines(self, bank: Bank, record: StepRecord) -> Iterator[tuple[str, Mapping[str, Any]]]:
        settings = self._study.train
        if record.step % settings.log_every == 0 or record.step == settings.n_steps:
            for sae_id in bank.active:
                yield sae_id, bank.metrics[sae_id]

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


def _checkpoints(products: Sequence[Product], every: int) -> Checkpoints:
    """One for each member: what the bank's state holds of it."""

    def save(state: State) -> None:
        for product in products:
            assert product.slot is not None
            learner = {
                part: {name: value for name, value in of_all.items() if name == product.name}
                for part, of_all in state["learner"].items()
            }
            product.slot.save({**state, "learner": learner}, product.signature)

    def load() -> State | None:
        states = [state for product in products if (state := saved_state(product)) is not None]
        if not states:
            return None
        parts = states[0]["learner"]
        learner = {part: {k: v for state in states for k, v in state["learner"][part].items()} for part in parts}
        return {**states[0], "learner": learner, "seconds": max(state["seconds"] for state in states)}

    return Checkpoints(load, save, every)


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
            "The last checkpoints are kept: a lower bank_size continues from them"
        ) from error


def _say_how_close(sae_id: str, bank: Bank, target_l0: float | None) -> None:
    """A target out of reach is said, and the nearest that steering found is kept."""
    l0 = bank.metrics[sae_id]["l0"]
    if target_l0 is not None and abs(l0 / target_l0 - 1) > _L0_TOLERANCE:
        say(
            f"train: {sae_id} ended at L0 {l0:.1f}, not {target_l0:g}; give more steps or a nearer lambda to start from"
        )


def _metadata(study: SAEStudy, dataset: ActivationDataset, spec: SAESpec, learner: SAELearner) -> dict[str, Any]:
    view, contents = dataset.view, dataset.view.manifest.contents
    return {
        "sae_id": spec.sae_id,
        "study": study.name,
        "hook_name": spec.hook_name,
        "model": view.manifest.names.model,
        "revision": view.manifest.names.revision,
        "model_hash": contents.model.weights,
        "corpus": view.manifest.names.corpus,
        "n_training_rows": view.n_rows["train"],
        "context_length": contents.harvest.context_length,
        "prepend_bos": bool(contents.harvest.prepend_bos),
        "norm_bound": view.hooks[spec.hook_name].norm_bound,
        "sparsity_coefficient": spec.sparsity_coefficient,
        "seed": spec.seed,
        "n_steps": study.train.n_steps,
        "batch_size": study.train.batch_size,
        "training_scale": learner.scale,
        "n_dead_resets": learner.n_dead_resets,
        "final_sparsity_coefficient": learner.sparsity_coefficient * learner.coefficient_factor,
        "learner": asdict(learner.config),
    }
