"""Corpora: a stream of documents from the Hub, from local files, or the documentation that comes with Python."""

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from core.schema import Schema, StudyPath, source_tag
from hookpoints.corpus_files import expand, file_documents
from hookpoints.hub import hub_errors, reading_hub
from hookpoints.text import Document, Notes, chat_text, cleaned

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WITHOUT_HUB = "give local files as corpus.files, or use embedded: python-docs, which needs no network"
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


class _Columns(Schema):
    text_column: str = "text"
    """Column (of rows) that holds the text."""
    messages_column: str | None = None
    """Column that holds conversations in its place: lists of `{role, content}`, written by the tokenizer's chat template."""
    tokens_column: str | None = None
    """Column that holds token ids of the model's own tokenizer in its place."""

    @model_validator(mode="after")
    def _one_column(self) -> "_Columns":
        if self.messages_column is not None and self.tokens_column is not None:
            raise ValueError("give one of messages_column and tokens_column")
        return self


class HubCorpus(_Columns):
    """A dataset of the Hugging Face Hub."""

    hub: str
    """Hub id, for example `monology/pile-uncopyrighted`."""
    config: str | None = None
    """Configuration (subset) of the dataset."""
    split: str = "train"
    """Split to read."""
    revision: str | None = None
    """Branch, tag or commit."""
    streaming: bool = True
    """Read over the network as needed, rather than download the whole dataset first."""


class FilesCorpus(_Columns):
    """Local files, patterns of them (`data/*.jsonl`), or folders: `.txt .md .jsonl .json .parquet`, compressed too."""

    files: list[StudyPath] = Field(min_length=1)
    """Paths of files or folders; of a folder with files of rows, those alone are read."""
    document_separator: str | None = Field(default=None, min_length=1)
    """String between the documents of a text file; without it, each file is one document."""


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


def documents(config: CorpusConfig, tokenizer: "PreTrainedTokenizerBase", notes: Notes) -> Iterator[Document]:
    """The corpus, one non-empty document at a time, always in the same order; what was replaced or skipped goes to ``notes``.

    Raises ValueError (missing column, unreadable line, unknown file type) or ConnectionError (Hub) with the way out.
    """
    match config:
        case EmbeddedCorpus():
            found = iter(python_docs())
        case HubCorpus():
            found = _hub_documents(config, _Rows(config, tokenizer, notes))
        case FilesCorpus():
            found = file_documents(config.files, config.document_separator, _Rows(config, tokenizer, notes), notes)
    return (document for document in found if not isinstance(document, str) or document.strip())


def corpus_files(config: CorpusConfig) -> list[Path]:
    """The files that it is read from; none where they are not on this machine, or it is no corpus of files."""
    if not isinstance(config, FilesCorpus):
        return []
    try:
        return expand(config.files, Notes())
    except ValueError:
        return []


class _Rows:
    """Rows -> documents."""

    def __init__(self, columns: _Columns, tokenizer: "PreTrainedTokenizerBase", notes: Notes) -> None:
        self._tokenizer, self._notes = tokenizer, notes
        self._is_chat, self._is_tokens = columns.messages_column is not None, columns.tokens_column is not None
        self.column = columns.messages_column or columns.tokens_column or columns.text_column

    def __call__(self, row: Any, where: str, is_first: bool) -> Iterator[Document]:
        """The row's document; none where it has no text. Raises ValueError where the first row of a file lacks the column."""
        names = list(row) if isinstance(row, dict) else []
        if self.column not in names and is_first:
            raise ValueError(self._no_column(names, where))
        value = row.get(self.column) if isinstance(row, dict) else None
        if value is None or value == "" or value == []:
            self._notes.add(f"rows without {self.column!r} were skipped", where)
        elif self._is_chat:
            yield cleaned(chat_text(value, self._tokenizer, where), where, self._notes)
        elif self._is_tokens:
            yield _token_list(value, where)
        elif isinstance(value, str):
            if value.strip():
                yield cleaned(value, where, self._notes)
            else:
                self._notes.add(f"rows without {self.column!r} were skipped", where)
        else:
            self._notes.add(f"rows whose {self.column!r} is no text ({type(value).__name__}) were skipped", where)

    def _no_column(self, names: list[Any], where: str) -> str:
        there = ", ".join(map(str, names)) or "none, since its row is no mapping"
        hints = {"messages": "messages_column", "conversations": "messages_column", "input_ids": "tokens_column"}
        hint = next((f"corpus.{key}: {name}" for name, key in hints.items() if name in names), "corpus.text_column")
        return f"{where}: no column {self.column!r}; it has: {there}. Set {hint}"


def _token_list(value: Any, where: str) -> list[int]:
    if isinstance(value, list) and all(type(token) is int and token >= 0 for token in value):
        return value
    raise ValueError(
        f"{where}: corpus.tokens_column takes lists of token ids (whole numbers from 0), not {str(value)[:60]}"
    )


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


def _hub_documents(config: HubCorpus, read_row: _Rows) -> Iterator[Document]:
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
            yield from read_row(row, f"{name}, row {number}", number == 0)
