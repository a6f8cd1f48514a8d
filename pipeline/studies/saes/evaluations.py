"""Units of evaluation: what is measured of SAEs on held-out rows, and in the model that the rows came from."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from core.devices import resolve_device
from core.files import DamagedFileError, read_json, write_json
from core.schema import differences
from eval.saes import metrics
from eval.saes.loss import Losses, loss_columns, loss_text, spliced_losses
from hookpoints.config import model_id
from hookpoints.contents import model_contents
from hookpoints.contexts import ContextStore
from hookpoints.models import LanguageModel, load_model
from hookpoints.shards import ActivationDataset
from hookpoints.sites import parse_hook_name
from hookpoints.splice import Splicer
from pipeline.activations import row_needs
from pipeline.progress import say
from pipeline.run_dir import RunDirectory
from pipeline.studies.saes.study import SAESpec, SAEStudy
from pipeline.table import SCHEMA_VERSION, measured_values, without_nan
from pipeline.units import Product, Tick, Unit, redone
from saes.io import read_sae

_EVALUATION, _LOSS = "eval.json", "loss.json"


class Evaluations:
    """Of the trained SAEs of a study: a unit for each, and with `eval.loss_tokens` one more for each hookpoint."""

    def __init__(
        self,
        study: SAEStudy,
        run: RunDirectory,
        dataset: ActivationDataset,
        specs: Sequence[SAESpec],
        saes: Mapping[str, Product],
    ) -> None:
        self._study, self._run, self._dataset, self._specs, self._saes = study, run, dataset, specs, saes
        self._model: LanguageModel | None = None

    def units(self) -> list[Unit]:
        """All of them."""
        of_rows = [Unit([self._product(spec)], partial(self._measure, spec)) for spec in self._specs]
        if self._study.eval.loss_tokens is None:
            return of_rows
        by_hook: dict[str, list[SAESpec]] = {}
        for spec in self._specs:
            by_hook.setdefault(spec.hook_name, []).append(spec)
        return of_rows + [
            Unit([self._loss_product(spec) for spec in specs], partial(self._splice, hook_name))
            for hook_name, specs in by_hook.items()
        ]

    def values(self, spec: SAESpec) -> dict[str, float | None]:
        """Columns of eval.csv that were measured of an SAE."""
        folder = self._folder(spec.sae_id)
        of_rows = measured_values(folder / _EVALUATION)
        if self._study.eval.loss_tokens is None:
            return of_rows
        return {**of_rows, **without_nan(loss_columns(read_losses(folder / _LOSS)))}

    def _folder(self, sae_id: str) -> Path:
        return self._run.folder("saes", sae_id)

    def _product(self, spec: SAESpec) -> Product:
        needs = {
            "sae": self._saes[spec.sae_id].fingerprint,
            "rows": row_needs(self._dataset.view),
            "min_fires": self._study.eval.min_fires,
            "columns": SCHEMA_VERSION,
        }
        return Product(spec.sae_id, needs, [self._folder(spec.sae_id) / _EVALUATION], is_redone=redone)

    def _measure(self, spec: SAESpec, missing: Sequence[Product], _: Tick) -> None:
        folder = self._folder(spec.sae_id)
        trained = read_sae(folder, resolve_device(self._study.eval.device, needs_float64=True)).sae
        values = metrics.evaluate(trained, self._dataset, spec.hook_name, min_fires=self._study.eval.min_fires)
        write_json(folder / _EVALUATION, {**without_nan(values), "unit": missing[0].signature})

    def _loss_product(self, spec: SAESpec) -> Product:
        needs = {
            "sae": self._saes[spec.sae_id].fingerprint,
            "rows": row_needs(self._dataset.view),
            "loss_tokens": self._study.eval.loss_tokens,
            "columns": SCHEMA_VERSION,
        }
        return Product(f"{spec.sae_id} loss", needs, [self._folder(spec.sae_id) / _LOSS], is_redone=redone)

    def _splice(self, hook_name: str, missing: Sequence[Product], tick: Tick) -> None:
        """The losses of the SAEs of one hookpoint, in one pass over the text."""
        n_tokens, view = self._study.eval.loss_tokens, self._dataset.view
        assert n_tokens is not None
        language_model, settings = self._loaded(), view.manifest.contents.harvest
        store = ContextStore(self._dataset.folder / "contexts")
        text = loss_text(
            store,
            view.extent.n_contexts["held_out"],
            n_tokens,
            settings,
            [*language_model.tokenizer.all_special_ids, *store.record.settings.prefix],
            view.hooks[hook_name].norm_bound,
            is_packed=view.manifest.capture.packing.is_packed,
        )
        splicer = Splicer(language_model.model, parse_hook_name(hook_name), settings.context_length)
        folders = {product.name: product.files[0].parent for product in missing}
        device = language_model.model.device
        losses = spliced_losses(
            splicer,
            text,
            {name: read_sae(folder, device).sae for name, folder in folders.items()},
            self._dataset.statistics(hook_name).mean,
            lambda share: tick(share * len(missing), f"{hook_name}: loss recovered"),
        )
        if splicer.shares_prefix is False:
            say(
                f"eval: {type(language_model.model).__name__} cannot be entered at {hook_name}: every loss there takes full "
                "forward passes"
            )
        for product in missing:
            write_json(product.files[0], {**_as_json(losses[product.name]), "unit": product.signature})

    def _loaded(self) -> LanguageModel:
        """The model that the activations came from, loaded once. Raises ValueError where the study's is another."""
        if self._model is None:
            there = self._dataset.view.manifest.contents.model
            say(f"eval: loading {model_id(self._study.model)} for loss recovered")
            try:
                self._model = load_model(self._study.model.model_copy(update={"dtype": there.dtype}))
            except (ValueError, ConnectionError, MemoryError) as error:
                raise type(error)(f"{error}; eval.loss_tokens: null measures the SAEs without it") from error
            lines = differences(there.model_dump(mode="json"), model_contents(self._model).model_dump(mode="json"))
            if lines:
                raise ValueError(
                    f"{model_id(self._study.model)} is not the model that the activations in {self._dataset.folder} came from:\n"
                    + "\n".join(f"  model.{line}" for line in lines)
                )
        return self._model


def _as_json(losses: Losses) -> dict[str, Any]:
    return {name: value if isinstance(value, float) else value.tolist() for name, value in losses._asdict().items()}


def read_losses(path: Path) -> Losses:
    """What a loss.json holds. Raises DamagedFileError for anything else in it."""
    way_out = f"delete {path} and run dipole eval again"
    stored = read_json(path, way_out)
    try:
        tensors = {
            name: torch.tensor(stored[name], dtype=torch.int64 if name == "document" else torch.float64)
            for name in Losses._fields[:-1]
        }
        return Losses(**tensors, spliced_fraction=float(stored["spliced_fraction"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{path} holds no losses by document ({error}): {way_out}") from error
