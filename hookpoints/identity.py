"""One check of what a folder of activations is: same model, tokenizer, text and settings, by content.

Hashing a model's parameters takes loading it. So the folder remembers which files were hashed, by size and time of change, and
the hashes are computed anew only where those differ (docs/decisions/0009-identity.md).
"""

from contextlib import suppress
from pathlib import Path

from core.devices import dtype_name
from core.files import read_json, write_json
from core.schema import differences
from hookpoints.config import HarvestConfig
from hookpoints.corpus import CorpusConfig, corpus_id
from hookpoints.manifest import HarvestIdentity, parse_record
from hookpoints.models import LanguageModel, ModelConfig, content_hash, model_files, model_id, tokenizer_hash

IDENTITY = "harvest.json"
_STAMP = "model_files.json"


def identity_of(language_model: LanguageModel, corpus: CorpusConfig, config: HarvestConfig) -> HarvestIdentity:
    """Of a harvest of a loaded model."""
    return HarvestIdentity(
        model=language_model.model_id,
        revision=language_model.revision,
        model_hash=content_hash(language_model),
        model_dtype=dtype_name(language_model.model.dtype),
        tokenizer_hash=tokenizer_hash(language_model.tokenizer),
        corpus=corpus_id(corpus),
        corpus_config=corpus,
        harvest=config,
    )


def check_identity(folder: Path, identity: HarvestIdentity) -> None:
    """The folder is of this identity from now on, or was already. Raises ValueError naming what differs."""
    path = folder / IDENTITY
    if not path.exists():
        write_json(path, identity.model_dump(mode="json"))
    _refuse_differences(folder, read_identity(folder), identity)


def check_settings(folder: Path, model: ModelConfig, corpus: CorpusConfig, config: HarvestConfig) -> None:
    """As `check_identity`, of everything that is known without the model's files; ``dtype: auto`` is content with any."""
    there = read_identity(folder)
    known = {
        "model": model_id(model),
        "model_dtype": there.model_dtype if model.dtype == "auto" else model.dtype,
        "corpus": corpus_id(corpus),
        "corpus_config": corpus,
        "harvest": config,
    }
    _refuse_differences(folder, there, there.model_copy(update=known))


def read_identity(folder: Path) -> HarvestIdentity:
    """Of a folder that holds a harvest, complete or not."""
    return parse_record(HarvestIdentity, folder / IDENTITY)


def is_hashed(folder: Path, model: ModelConfig) -> bool:
    """Whether the model's files are, by size and time of change, those whose hashes the folder's identity holds."""
    stamp = folder / _STAMP
    return stamp.is_file() and read_json(stamp) == _stamp(model)


def remember_files(folder: Path, model: ModelConfig) -> None:
    """Note the files of a model whose hashes are the folder's; a folder that cannot be written is hashed again next time."""
    with suppress(OSError):
        write_json(folder / _STAMP, _stamp(model))


def _stamp(model: ModelConfig) -> dict[str, list[int]]:
    stats = {str(path): path.stat() for path in model_files(model)}
    return {path: [stat.st_size, stat.st_mtime_ns] for path, stat in stats.items()}


def _refuse_differences(folder: Path, there: HarvestIdentity, now: HarvestIdentity) -> None:
    lines = differences(there.model_dump(mode="json"), now.model_dump(mode="json"))
    if lines:
        listed = "\n".join(f"  {line}" for line in lines)
        raise ValueError(
            f"{folder} holds activations of another harvest:\n{listed}\nSet activations to another folder, or delete it"
        )
