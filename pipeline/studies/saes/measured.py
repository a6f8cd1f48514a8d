"""What was measured of an SAE, in its folder: `eval.json` with sums by document and latent beside it, and `loss.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from core.files import DamagedFileError, read_json, write_json
from core.tensors import read_tensors, write_tensors
from eval.saes.census import LatentSums
from eval.saes.documents import DocumentSums, Losses, RowSums
from eval.saes.loss import loss_columns
from eval.saes.metrics import Measured
from pipeline.values import measured_values, without_nan

EVALUATION, LOSS = "eval.json", "loss.json"
_DOCUMENTS, _LATENTS = "documents.safetensors", "latents.safetensors"
Sums = TypeVar("Sums", RowSums, LatentSums)


def write_measured(folder: Path, measured: Measured, unit: Mapping[str, Any]) -> None:
    """All of it; `eval.json` comes last, so that a folder which has it is complete."""
    parts = {_DOCUMENTS: measured.documents, _LATENTS: measured.latents}
    files = {name: write_tensors(folder / name, sums._asdict()) for name, sums in parts.items()}
    write_json(folder / EVALUATION, {**without_nan(measured.columns), "files": files, "unit": unit})


def write_losses(folder: Path, losses: Losses, unit: Mapping[str, Any]) -> None:
    """`loss.json`."""
    values = {name: value if isinstance(value, float) else value.tolist() for name, value in losses._asdict().items()}
    write_json(folder / LOSS, {**values, "unit": unit})


def columns(folder: Path, *, with_losses: bool) -> dict[str, float | None]:
    """Of eval.csv."""
    of_rows = measured_values(folder / EVALUATION)
    return {**of_rows, **without_nan(loss_columns(read_losses(folder)))} if with_losses else of_rows


def read_documents(folder: Path, *, with_losses: bool) -> DocumentSums:
    """Raises DamagedFileError for anything but what was written."""
    return DocumentSums(_read(folder, _DOCUMENTS, RowSums), read_losses(folder) if with_losses else None)


def read_latents(folder: Path) -> LatentSums:
    """Raises DamagedFileError for anything but what was written."""
    return _read(folder, _LATENTS, LatentSums)


def _read(folder: Path, name: str, kind: type[Sums]) -> Sums:
    way_out = _way_out(folder / EVALUATION)
    files = read_json(folder / EVALUATION, way_out).get("files")
    sha256 = files.get(name) if isinstance(files, dict) else None
    if not isinstance(sha256, str):
        raise DamagedFileError(f"{folder / EVALUATION} does not name {name}: {way_out}")
    tensors: dict[str, Tensor] = read_tensors(folder / name, sha256, way_out)
    if tensors.keys() != set(kind._fields):
        raise DamagedFileError(f"{folder / name} holds {', '.join(sorted(tensors))}: {way_out}")
    return kind(**tensors)


def read_losses(folder: Path) -> Losses:
    """What a loss.json holds. Raises DamagedFileError for anything else in it."""
    path = folder / LOSS
    stored = read_json(path, _way_out(path))
    try:
        tensors = {
            name: torch.tensor(stored[name], dtype=torch.int64 if name == "document" else torch.float64)
            for name in Losses._fields[:-1]
        }
        return Losses(**tensors, spliced_fraction=float(stored["spliced_fraction"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{path} holds no losses by document ({error}): {_way_out(path)}") from error


def _way_out(path: Path) -> str:
    return f"delete {path} and run dipole eval again"
