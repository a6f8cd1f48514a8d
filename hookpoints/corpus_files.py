"""Local files as documents: text, JSON lines, JSON, Parquet, compressed or not, alone or in folders."""

import glob
import io
import json
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from hookpoints.text import Document, Notes, cleaned, decoded

_TEXT, _LINES, _JSON, _PARQUET = (".txt", ".md", ".text"), (".jsonl", ".ndjson"), (".json",), (".parquet",)
_ROWS = (*_LINES, *_JSON, *_PARQUET)
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
ALLOWED = ", ".join((*_TEXT, *_ROWS)) + f"; all but .parquet also with {', '.join(_COMPRESSED)}"
LARGEST_DOCUMENT = 64 << 20
"""Bytes of one line or undivided file; more is a mistake, and would be read into memory at once."""
_LARGEST_JSON = 1 << 30
_NOT_DOCUMENTS = ("license", "licence", "copying", "notice", "readme", "changelog", "authors", "contributing")
_BLOCK = 1 << 20
_OTHER_BOMS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


class RowReader(Protocol):
    """Rows -> documents."""

    column: str
    """Which is read."""

    def __call__(self, row: Any, where: str, is_first: bool) -> Iterator[Document]:
        """The document of a row, if it has one; ``is_first`` of its file."""
        ...


def file_documents(given: list[str], separator: str | None, read_row: RowReader, notes: Notes) -> Iterator[Document]:
    """Documents of files in the order given. Raises ValueError, naming file and line, for what cannot be read."""
    for path in expand(given, notes):
        suffix = _suffix(path)
        try:
            if suffix in _TEXT:
                yield from _text_documents(path, separator, notes)
            else:
                rows = _parquet_rows(path, read_row.column) if suffix in _PARQUET else _json_rows(path, suffix, notes)
                for number, (row, where) in enumerate(rows):
                    yield from read_row(row, where, number == 0)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise ValueError(
                f"corpus.files: {path} cannot be read: {getattr(error, 'strerror', None) or error}"
            ) from error


def expand(given: list[str], notes: Notes) -> list[Path]:
    """Regular files in the order given, patterns and folders opened and sorted. Raises ValueError for what is missing or of
    another type; what a folder holds beside documents is noted."""
    paths: list[Path] = []
    for text in given:
        path = Path(text)
        found = [path] if path.exists() else [Path(one) for one in sorted(glob.glob(text, recursive=True))]
        if not found:
            what = "matches nothing" if glob.has_magic(text) else "does not exist"
            raise ValueError(f"corpus.files: {text!r} {what} (looked in {Path.cwd()})")
        for one in found:
            paths.extend(_of_folder(one, notes) if one.is_dir() else [_checked(one)])
    return paths


def _checked(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"corpus.files: {path} is no regular file; write it to one first")
    if _suffix(path) not in (*_TEXT, *_ROWS):
        raise ValueError(f"corpus.files: {path} ends in {path.suffix!r}; allowed are {ALLOWED}")
    return path


def _of_folder(folder: Path, notes: Notes) -> list[Path]:
    """Its documents: where it holds files of rows, texts beside them only describe it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_hidden(path, folder)]
    known = [path for path in files if _suffix(path) in (*_TEXT, *_ROWS)]
    rows = [path for path in known if _suffix(path) in _ROWS]
    chosen = rows or [path for path in known if not path.name.lower().startswith(_NOT_DOCUMENTS)]
    if not chosen:
        raise ValueError(f"corpus.files: folder {str(folder)!r} holds no file ending in {ALLOWED}")
    skipped = Counter(path.suffix or path.name for path in files if path not in set(chosen))
    for suffix, number in skipped.items():
        notes.add(f"{suffix} files of a folder were not read", str(folder), number)
    return chosen


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _suffix(path: Path) -> str:
    """Of what is inside, in lower case."""
    inner = path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path
    return inner.suffix.lower() if inner is path or inner.suffix.lower() not in _PARQUET else path.suffix


def _open(path: Path) -> BinaryIO:
    """Decompressed. Raises ValueError for text in another encoding that says so."""
    file = _decompressed(path)
    start = file.peek(4)[:4]
    encoding = next((name for bom, name in _OTHER_BOMS.items() if start.startswith(bom)), None)
    if encoding is not None:
        file.close()
        raise ValueError(f"corpus.files: {path} is {encoding}; convert it (iconv -f {encoding} -t UTF-8)")
    if start.startswith(b"\xef\xbb\xbf"):
        file.read(3)
    return file


def _decompressed(path: Path) -> Any:
    import bz2
    import gzip

    if path.suffix.lower() == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    openers: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    opened = openers.get(path.suffix.lower(), lambda plain: plain.open("rb"))
    return opened(path)


def _text_documents(path: Path, separator: str | None, notes: Notes) -> Iterator[str]:
    rest, ending = b"", None if separator is None else separator.encode("utf8")
    with _open(path) as file:
        while block := file.read(_BLOCK):
            rest += block
            if ending is not None:
                *whole, rest = rest.split(ending)
                yield from (_clean(one, path, notes) for one in whole)
            if len(rest) > LARGEST_DOCUMENT:
                raise ValueError(
                    f"corpus.files: {path} holds a document of more than {LARGEST_DOCUMENT >> 20} MiB; divide the file, or set "
                    "corpus.document_separator to the string between its documents"
                )
    yield _clean(rest, path, notes)


def _clean(content: bytes, path: Path, notes: Notes) -> str:
    return cleaned(decoded(content, str(path), notes), str(path), notes)


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    with _open(path) as file:
        for number in count(1):
            line = file.readline(LARGEST_DOCUMENT + 1)
            if not line:
                return
            if len(line) > LARGEST_DOCUMENT:
                raise ValueError(f"{path}, line {number} has more than {LARGEST_DOCUMENT >> 20} MiB; divide it")
            if line.strip():
                yield line, number


def _json_rows(path: Path, suffix: str, notes: Notes) -> Iterator[tuple[Any, str]]:
    if suffix in _LINES:
        for line, number in _lines(path):
            where = f"{path}, line {number}"
            yield _parsed(decoded(line, where, notes), where), where
        return
    with _open(path) as file:
        content = file.read(_LARGEST_JSON + 1)
    if len(content) > _LARGEST_JSON:
        raise ValueError(
            f"{path} has more than {_LARGEST_JSON >> 20} MiB; write it as .jsonl, which is read line by line"
        )
    rows = _parsed(decoded(content, str(path), notes), str(path))
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], start=1):
        yield row, f"{path}, row {number}"


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not valid JSON ({error})") from error


def _parquet_rows(path: Path, column: str) -> Iterator[tuple[dict[str, Any], str]]:
    from pyarrow import ArrowException, parquet

    number = 0
    try:
        file = parquet.ParquetFile(path)
        columns = [column] if column in file.schema_arrow.names else None
        for batch in file.iter_batches(batch_size=256, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield row, f"{path}, row {number}"
    except ArrowException as error:
        raise ValueError(f"corpus.files: {path} is no whole Parquet file ({error})") from error
