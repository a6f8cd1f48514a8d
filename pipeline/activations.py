"""The harvest of any study that reads a language model's activations, and what every later stage sees of it."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hookpoints.config import HarvestConfig, ModelConfig, model_id
from hookpoints.described import Described
from hookpoints.extents import extent_of
from hookpoints.grow import refuse_fewer_tokens
from hookpoints.harvest import disk_bytes, harvest, missing_hooks
from hookpoints.identity import IDENTITY, check_settings, check_study
from hookpoints.manifest import MANIFEST, View, read_manifest
from hookpoints.models import load_model, model_shape
from hookpoints.shards import ActivationDataset
from hookpoints.sites import resolve_hookpoint
from pipeline.environment import environment
from pipeline.progress import progress, say
from pipeline.run_dir import exclusive


def harvest_activations(described: Described, folder: Path, study: str) -> None:
    """Read text with a model and write activation shards to a folder, or what it lacks of them.

    Raises ValueError, naming what differs, when the folder holds activations of another harvest.
    """
    config = described.harvest
    if missing_hooks(folder, config) == []:
        check_study(folder, described, _tell)
        say(f"harvest: complete in {folder}")
        return
    with exclusive(folder, study, waits=True):
        if missing_hooks(folder, config) == []:  # another study made it meanwhile
            check_study(folder, described, _tell)
            say(f"harvest: complete in {folder}")
            return
        _harvest(described, folder)
    _say_what_came(open_activations(described, folder).view, config)


def _harvest(described: Described, folder: Path) -> None:
    model, config = described.model, described.harvest
    if (folder / MANIFEST).is_file():  # it grows: what differs is said before a model is loaded
        there = check_settings(folder, described)
        refuse_fewer_tokens(folder, read_manifest(folder).extents, config.n_tokens)
        if model.dtype == "auto":
            model = model.model_copy(update={"dtype": there.model.dtype})
    say(f"harvest: loading {model_id(model)}")
    language_model = load_model(model)
    device = language_model.model.device
    say(f"harvest: {language_model.model_id} in {language_model.model.dtype} on {device}, into {folder}")
    with progress("harvest", config.n_tokens, "tokens") as display:
        for state in harvest(language_model, described, folder, environment()):
            display.set_total(state.total_tokens)
            display.update(state.n_tokens, f"{state.n_bytes / 1e6:,.0f} MB")


def _say_what_came(view: View, config: HarvestConfig) -> None:
    for note in view.extent.notes:
        say(f"harvest: text: {note}")
    packing = view.manifest.capture.packing
    if not packing.is_packed:
        say(f"harvest: every piece of a document was read in a row of its own, since {packing.reason}")
    n_rows = view.n_rows
    say(f"harvest: {n_rows['train']:,} training and {n_rows['held_out']:,} held-out rows from {view.n_tokens:,} tokens")
    if view.n_tokens < 0.98 * config.n_tokens:
        say(f"harvest: the corpus ended before the {config.n_tokens:,} tokens asked for")


def open_activations(described: Described, folder: Path) -> ActivationDataset:
    """The hooks and the text that a study describes. Raises ValueError where the folder does not hold them, or holds those of
    another model, text or settings."""
    manifest = read_manifest(folder)
    check_study(folder, described, _tell)
    config = described.harvest
    number = extent_of(manifest.extents, config.n_tokens)
    refuse_fewer_tokens(folder, manifest.extents, config.n_tokens)
    if number is None:
        raise ValueError(
            f"{folder} holds activations of {manifest.extents[-1].n_tokens:,} tokens and harvest.n_tokens is "
            f"{config.n_tokens:,}; run dipole harvest first: it adds what is missing"
        )
    hook_names = [resolve_hookpoint(one, manifest.names.n_layers).name for one in config.hookpoints]
    return ActivationDataset(folder, hook_names, number)


def say_if_new(folder: Path, given: str | None) -> None:
    """A folder of activations that a study names and that is not there is made, but not without a word."""
    if given is None or (folder / IDENTITY).exists():
        return
    runs = [path for path in folder.parent.parent.glob("*/activations") if (path / IDENTITY).exists()]
    near = difflib.get_close_matches(str(folder), [str(path) for path in runs], n=1)
    say(
        f"harvest: {folder} holds no activations yet, so a new harvest is made there"
        + (f"; did you mean {near[0]}?" if near else "")
    )


def activation_costs(model: ModelConfig, config: HarvestConfig) -> list[tuple[str, str]]:
    """What a harvest costs, from the model's configuration; no weights are read."""
    shape = model_shape(model)
    return [
        ("model", f"{shape.n_params / 1e6:,.0f} M parameters, d_in {shape.d_model}"),
        ("tokens", f"{config.n_tokens:,}"),
        ("activations on disk", f"{disk_bytes(config, shape.d_model) / 1e9:,.2f} GB at most ({config.dtype})"),
    ]


def row_needs(view: View) -> dict[str, Any]:
    """What rows and their order are a function of, for the needs of what is made from them: text that grew lies in other
    shards than text that was read at once."""
    contents = view.manifest.contents.model_dump(mode="json")
    extents = view.manifest.extents[: view.number + 1]
    n_before = [0, *(extent.n_shards for extent in extents)]
    grown = [extent.n_contexts for extent, n in zip(extents, n_before, strict=False) if extent.n_shards > n]
    return {**contents, "text": {**view.extent.contents, "grown": grown}}


def extent_made_from(view: View, needs: Mapping[str, Any]) -> int | None:
    """The extent whose rows are those of ``needs``, as of `row_needs`; None where they are other rows."""
    for number in range(len(view.manifest.extents)):
        if row_needs(view._replace(number=number)) == needs:
            return number
    return None


def _tell(line: str) -> None:
    say(f"harvest: {line}")
