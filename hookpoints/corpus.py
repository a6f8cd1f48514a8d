"""Corpora: a stream of documents from the Hub, from local files, or the documentation that comes with Python."""

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from core.schema import Schema, source_tag
from hookpoints.hub import hub_errors, reading_hub

_SUFFIXES = (".txt", ".jsonl", ".parquet")
_WITHOUT_HUB = "give local files as corpus.files, or use embedded: python-docs, which needs no network"
_READ_CHARACTERS = 1 << 20
_NOT_DOCUMENTATION = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "__pycache__",
    "pydoc_data",
}


class EmbeddedCorpus(Schema):
    """Python's own documentation: about two megabytes of real English, present wherever Python is."""

    embedded: Literal["python-docs"]
    """Name of an embedded corpus."""


class HubCorpus(Schema):
    """A dataset of the Hugging Face Hub."""

    hub: str
    """Hub id, for example `monology/pile-uncopyrighted`."""
    config: str | None = None
    """Configuration (subset) of the dataset."""
    split: str = "train"
    """Split to read."""
    revision: str | None = None
    """Branch, tag or commit."""
    text_column: str = "text"
    """Column that holds the text."""
    streaming: bool = True
    """Read over the network as needed, rather than download the whole dataset first."""


class FilesCorpus(Schema):
    """Local files: `.txt`, `.jsonl`, `.parquet`, or folders of them."""

    files: list[str] = Field(min_length=1)
    """Paths of files or folders."""
    text_column: str = "text"
    """Key (jsonl) or column (parquet) that holds the text."""
    document_separator: str | None = None
    """String between the documents of a `.txt` file; without it, each file is one document."""


def _corpus_tag(value: Any) -> str | None:
    return source_tag(value, ("embedded", "hub", "files"))


CorpusConfig = Annotated[
    Annotated[EmbeddedCorpus, Tag("embedded")]
    | Annotated[HubCorpus, Tag("hub")]
    | Annotated[FilesCorpus, Tag("files")],
    Discriminator(
        _corpus_tag,
        custom_error_type="corpus_source",
        custom_error_message="give exactly one of embedded, hub, files",
        custom_error_context={"allowed": "embedded, hub, files"},
    ),
]


def corpus_id(config: CorpusConfig) -> str:
    """The name a person would use for the corpus."""
    match config:
        case EmbeddedCorpus():
            return config.embedded
        case HubCorpus():
            return f"{config.hub}/{config.config}" if config.config else config.hub
        case FilesCorpus():
            return ", ".join(config.files)


def documents(config: CorpusConfig) -> Iterator[str]:
    """The corpus, one non-empty document at a time, always in the same order.

    Raises ValueError (missing column, unreadable line, unknown file type) or ConnectionError (Hub) with the way out.
    """
    match config:
        case EmbeddedCorpus():
            texts = python_docs()
        case HubCorpus():
            texts = _hub_documents(config)
        case FilesCorpus():
            texts = _file_documents(config)
    return (text for text in texts if text.strip())


def python_docs() -> Iterator[str]:
    """Help topics, then one document per standard-library module: its docstrings in source order."""
    from pydoc_data import topics

    yield from (topics.topics[name] for name in sorted(topics.topics))
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if _NOT_DOCUMENTATION.isdisjoint(relative.parts):
            yield _module_docstrings(path, ".".join(relative.with_suffix("").parts).removesuffix(".__init__"))


def _module_docstrings(path: Path, module: str) -> str:
    try:
        tree = ast.parse(path.read_text(encoding="utf8"))
    except (SyntaxError, UnicodeDecodeError):  # deliberately broken files of the standard library
        return ""
    sections = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                name = module if isinstance(node, ast.Module) else node.name
                sections.append(f"{name}\n\n{docstring}")
    return "\n\n".join(sections)


def _hub_documents(config: HubCorpus) -> Iterator[str]:
    import datasets

    name = f"corpus {corpus_id(config)}"
    try:
        with reading_hub(name, instead=_WITHOUT_HUB):
            rows = datasets.load_dataset(
                config.hub, config.config, split=config.split, revision=config.revision, streaming=config.streaming
            )
    except ConnectionError:
        raise
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {str(error).splitlines()[0]} Or {_WITHOUT_HUB}") from error
    with hub_errors(name, instead=_WITHOUT_HUB):
        for number, row in enumerate(rows):
            yield _column(row, config.text_column, f"{name}, row {number}")


def _file_documents(config: FilesCorpus) -> Iterator[str]:
    for path in _expand(config.files):
        match path.suffix:
            case ".txt":
                yield from _text_documents(path, config.document_separator)
            case ".jsonl":
                yield from _jsonl_documents(path, config.text_column)
            case ".parquet":
                yield from _parquet_documents(path, config.text_column)


def _expand(given: list[str]) -> list[Path]:
    """Files in the order given, folders opened and sorted. Raises ValueError for what is missing or of another type."""
    paths: list[Path] = []
    for text in given:
        path = Path(text).expanduser()
        if not path.exists():
            raise ValueError(f"corpus.files: {text!r} does not exist (looked in {Path.cwd()})")
        found = sorted(p for p in path.rglob("*") if p.suffix in _SUFFIXES) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"corpus.files: folder {text!r} holds no file ending in {', '.join(_SUFFIXES)}")
        paths.extend(found)
    for path in paths:
        if path.suffix not in _SUFFIXES:
            raise ValueError(f"corpus.files: {path} ends in {path.suffix!r}; allowed are {', '.join(_SUFFIXES)}")
    return paths


def _text_documents(path: Path, separator: str | None) -> Iterator[str]:
    if separator is None:
        yield path.read_text(encoding="utf8")
        return
    rest = ""
    with path.open(encoding="utf8") as handle:
        while block := handle.read(_READ_CHARACTERS):
            *whole, rest = (rest + block).split(separator)
            yield from whole
    yield rest


def _jsonl_documents(path: Path, column: str) -> Iterator[str]:
    import json

    with path.open(encoding="utf8") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: not valid JSON ({error})") from error
            yield _column(row, column, f"{path}, line {number}")


def _parquet_documents(path: Path, column: str) -> Iterator[str]:
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    names = file.schema_arrow.names
    if column not in names:
        raise ValueError(_missing_column(column, names, str(path)))
    for batch in file.iter_batches(batch_size=256, columns=[column]):
        yield from (value for value in batch.column(0).to_pylist() if value)


def _column(row: Any, column: str, where: str) -> str:
    if not isinstance(row, dict) or not isinstance(row.get(column), str):
        raise ValueError(_missing_column(column, list(row) if isinstance(row, dict) else [], where))
    return row[column]


def _missing_column(column: str, names: list[str], where: str) -> str:
    return f"{where}: no text column {column!r}; it has: {', '.join(map(str, names)) or 'none'}. Set corpus.text_column"
