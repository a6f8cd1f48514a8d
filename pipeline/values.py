"""Numbers that were measured, as JSON holds them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.files import DamagedFileError, read_json


def without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """NaN as None, which JSON can hold."""
    return {name: None if value != value else value for name, value in values.items()}


def measured_values(path: Path) -> dict[str, float | None]:
    """The numbers of an eval.json. Raises DamagedFileError for anything else in it."""
    way_out = f"delete {path} and run dipole eval again"
    values = {
        name: value for name, value in read_json(path, way_out).items() if name not in ("unit", "files", "sha256")
    }
    wrong = [name for name, value in values.items() if not (value is None or isinstance(value, int | float))]
    if wrong:
        raise DamagedFileError(f"{path} holds no number under {wrong[0]}: {way_out}")
    return values
