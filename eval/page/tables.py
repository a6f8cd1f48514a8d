"""Tables as CSV files: whole, checked, and harmless to open in a spreadsheet."""

from pathlib import Path

import pandas as pd

from core.files import check_checked, write_checked

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
"""A spreadsheet would execute a text that begins so; with an apostrophe in front it shows it."""


def write_table(path: Path, table: pd.DataFrame) -> Path:
    """A CSV file, with its checksum beside it."""
    safe = table.map(_escaped).rename(columns=lambda name: _escaped(name))
    write_checked(path, lambda temporary: safe.to_csv(temporary, index=False))
    return path


def read_table(path: Path, way_out: str) -> pd.DataFrame:
    """What `write_table` wrote; no columns for a table without rows. Raises ValueError, naming the file and the way out, for
    anything else."""
    check_checked(path, way_out)
    try:
        table = pd.read_csv(path)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    return table.map(_unescaped).rename(columns=lambda name: _unescaped(name))


def _escaped(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _unescaped(value: object) -> object:
    return value[1:] if isinstance(value, str) and value[:1] == "'" and value[1:].startswith(_FORMULA) else value
