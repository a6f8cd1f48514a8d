"""The harvest of any study that reads a language model's activations."""

from pathlib import Path

from hookpoints.config import HarvestConfig
from hookpoints.corpus import CorpusConfig
from hookpoints.harvest import disk_bytes, harvest, is_complete
from hookpoints.identity import check_identity, check_settings, identity_of, is_hashed, read_identity, remember_files
from hookpoints.manifest import Manifest, read_manifest
from hookpoints.models import ModelConfig, load_model, model_files, model_id, model_shape
from pipeline.progress import progress, say
from pipeline.run_dir import exclusive


def harvest_activations(model: ModelConfig, corpus: CorpusConfig, config: HarvestConfig, folder: Path) -> None:
    """Read text with a model and write activation shards to a folder, or what it lacks of them.

    Raises ValueError, naming what differs, when the folder holds activations of another harvest.
    """
    if is_complete(folder):
        check_activations(model, corpus, config, folder)
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
        remember_files(folder, model)
    manifest = read_manifest(folder)
    n_rows, packing = manifest.n_rows, manifest.capture.packing
    if not packing.is_packed:
        say(f"harvest: every piece of a document was read in a row of its own, since {packing.reason}")
    say(
        f"harvest: {n_rows['train']:,} training and {n_rows['held_out']:,} held-out rows from {manifest.n_tokens:,} tokens"
    )
    if manifest.n_tokens < 0.98 * config.n_tokens:
        say(f"harvest: the corpus ended before the {config.n_tokens:,} tokens asked for")


def check_activations(model: ModelConfig, corpus: CorpusConfig, config: HarvestConfig, folder: Path) -> None:
    """Complete activations are those that a study describes: settings first, then the model's weights and tokenizer.

    Those are loaded and hashed where their files are not known to be the ones that were hashed; where they are not on this
    machine, that is said.
    """
    check_settings(folder, model, corpus, config)
    if is_hashed(folder, model):
        return
    if not model_files(model):
        say(
            f"harvest: {model_id(model)} is not on this machine, so its weights are not compared with those of {folder}"
        )
        return
    say(f"harvest: comparing the weights of {model_id(model)} with those of {folder}")
    same_dtype = model.model_copy(update={"dtype": read_identity(folder).model_dtype})
    check_identity(folder, identity_of(load_model(same_dtype), corpus, config))
    remember_files(folder, model)


def activation_costs(model: ModelConfig, config: HarvestConfig) -> list[tuple[str, str]]:
    """What a harvest costs, from the model's configuration; no weights are read."""
    shape = model_shape(model)
    return [
        ("model", f"{shape.n_params / 1e6:,.0f} M parameters, d_in {shape.d_model}"),
        ("tokens", f"{config.n_tokens:,}"),
        ("activations on disk", f"{disk_bytes(config, shape.d_model) / 1e9:,.2f} GB at most ({config.dtype})"),
    ]


def provenance_needs(manifest: Manifest) -> dict[str, object]:
    """What rows are a function of, for the needs of what is made from them."""
    identity = manifest.model_dump(
        mode="json", include={"revision", "model_hash", "model_dtype", "tokenizer_hash", "corpus_hash", "harvest"}
    )
    return {**identity, "bos_token_ids": manifest.capture.bos_token_ids}
