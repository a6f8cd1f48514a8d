"""Which files and names are known to hold the contents that a folder of activations was made from.

Hashing a model's parameters takes loading it, hashing text reading it. So the folder remembers what was hashed: files by size and
time of change, names where there are no files. Only what is not known is hashed anew (docs/decisions/0009-identity.md).
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field

from core.files import write_json
from core.schema import Schema
from hookpoints.config import LocalModel, ModelConfig
from hookpoints.corpus import CorpusConfig, FilesCorpus, corpus_files
from hookpoints.models import model_files
from hookpoints.records import parse_record

SOURCES = "sources.json"
_NO_CONTENT = {"device", "dtype", "trust_remote_code", "streaming"}


class Source(Schema):
    """Something that was hashed."""

    name: Any
    """As a study gave it."""
    options: dict[str, Any]
    """What else of the study it depends on."""
    files: list[tuple[str, int, int]]
    """Path, size in bytes and time of change in nanoseconds, in the order read; none for what is no file."""

    def is_known(self, known: Iterable["Source"]) -> bool:
        """Whether it is one of these: by its files, or by name where it has none on this machine."""
        return any(
            one.options == self.options and (one.files == self.files if self.files else one.name == self.name)
            for one in known
        )


class Sources(Schema):
    """All that is known."""

    models: list[Source] = Field(default=[])
    corpora: list[Source] = Field(default=[])


def model_source(config: ModelConfig) -> Source:
    """Of a study's model."""
    said = config.model_dump(mode="json", exclude=_NO_CONTENT)
    return Source(name=said, options={}, files=_stamps(model_files(config)))


def corpus_source(config: CorpusConfig, model: ModelConfig) -> Source:
    """Of a study's corpus; the chat template of the model's tokenizer writes conversations, so its files are among them."""
    said = config.model_dump(mode="json", exclude=_NO_CONTENT)
    name = said.pop("files") if isinstance(config, FilesCorpus) else None
    files = _stamps(corpus_files(config))
    if said.get("messages_column") is not None:
        name, files = {"corpus": name, "model": model_source(model).name}, files + model_source(model).files
    return Source(name=name, options=said, files=files)


def is_expected_here(config: Schema) -> bool:
    """Whether its contents come from files of this machine, rather than from the network or a package."""
    return isinstance(config, LocalModel | FilesCorpus)


def known_sources(folder: Path) -> Sources:
    """Of a folder of activations. Raises DamagedFileError."""
    path = folder / SOURCES
    return parse_record(Sources, path) if path.is_file() else Sources()


def remember(folder: Path, *, model: Source | None = None, corpus: Source | None = None) -> None:
    """Note that these have the folder's contents; a folder that cannot be written hashes them again next time."""
    there = known_sources(folder)
    models, corpora = _with(there.models, model), _with(there.corpora, corpus)
    if (models, corpora) != (there.models, there.corpora):
        with suppress(OSError):
            write_json(folder / SOURCES, Sources(models=models, corpora=corpora).model_dump(mode="json"))


def _with(known: list[Source], source: Source | None) -> list[Source]:
    return known if source is None or source.is_known(known) else [*known, source]


def _stamps(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    stats = [(os.path.abspath(path), path.stat()) for path in paths]
    return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
