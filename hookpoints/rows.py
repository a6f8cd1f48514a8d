"""Rows of one hook: how they are stored, and what is measured of them before they are."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hookpoints.config import StorageDtype
from hookpoints.outliers import NormBound, norm_histogram
from hookpoints.records import HookRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

_INT8_LEVELS = 127
_NUMPY_DTYPES = {
    "BF16": "<u2",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "I8": "i1",
    "I32": "<i4",
    "I64": "<i8",
    "BOOL": "?",
}
_CHUNK_ROWS = 1024


def bytes_per_row(d_in: int, dtype: StorageDtype) -> int:
    """Bytes that one row of one hook takes on disk."""
    return d_in * getattr(torch, dtype).itemsize + (4 if dtype == "int8" else 0)


def encode_rows(activations: Tensor, dtype: StorageDtype) -> dict[str, Tensor]:
    """Tensors that store ``activations [n_rows, d_in]``; int8 has one scale per row (largest magnitude / 127).

    Raises ValueError where an activation is too large for the dtype.
    """
    if dtype != "int8":
        stored = activations.to(getattr(torch, dtype)).contiguous()
        if not bool(stored.isfinite().all()):
            raise ValueError(
                f"an activation of {float(activations.abs().max()):.3g} is too large for harvest.dtype: {dtype} (up to "
                f"{torch.finfo(stored.dtype).max:.3g}); set it to bfloat16, float32 or int8. Nothing of this shard was kept"
            )
        return {"activations": stored}
    rows = activations.float()
    scale = rows.abs().amax(dim=1) / _INT8_LEVELS
    quantised = (rows / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round().to(torch.int8)
    return {"activations": quantised, "scale": scale}


def decode_rows(stored: dict[str, Tensor]) -> Tensor:
    """The inverse of `encode_rows`, in float32."""
    rows = stored["activations"].float()
    return rows * stored["scale"][:, None] if "scale" in stored else rows


def row_norms(rows: Tensor, where: str) -> Tensor:
    """``[n_rows]`` float32. Raises ValueError, naming ``where``, when a row is not finite."""
    norms = torch.cat([chunk.float().norm(dim=1) for chunk in rows.split(_CHUNK_ROWS)])
    if not bool(norms.isfinite().all()):
        bad = int((~norms.isfinite()).sum())
        raise ValueError(
            f"{bad} of {len(rows)} rows of {where} hold NaN or infinity; the model overflows in its dtype: "
            "set model.dtype to bfloat16 or float32. Nothing of this shard was kept"
        )
    return norms


def measure_and_encode(
    rows: Tensor, norms: Tensor, dtype: StorageDtype, bound: NormBound | None
) -> tuple[HookRecord, dict[str, Tensor]]:
    """The record of one hook's rows ``[n_rows, d_in]`` in one shard, and the tensors that store them.

    ``norms [n_rows]`` as of `row_norms`; rows over the bound are marked. Each row's and each chunk's sums are float32, those
    over chunks float64.
    """
    is_outlier = torch.zeros(len(rows), dtype=torch.bool) if bound is None else norms > bound.value
    kept = rows[~is_outlier] if bool(is_outlier.any()) else rows
    kept_sum = torch.stack([chunk.float().sum(dim=0) for chunk in kept.split(_CHUNK_ROWS)]).double().sum(dim=0)
    kept_norms = norms[~is_outlier].double()
    stored = encode_rows(rows, dtype)
    record = HookRecord(
        n_rows=len(rows),
        norm_bound=None if bound is None else bound.value,
        norm_gap=None if bound is None else bound.gap,
        n_outliers=int(is_outlier.sum()),
        sum=kept_sum.tolist(),
        sum_norm=float(kept_norms.sum()),
        sum_squared_norm=float(kept_norms.pow(2).sum()),
        sum_squared_centred_norm=_squared_distance(kept, kept_sum / max(1, len(kept))),
        sum_squared_norm_all_rows=float(norms.double().pow(2).sum()),
        largest_kept_norm=float(kept_norms.max()) if len(kept_norms) else 0.0,
        norm_histogram=norm_histogram(norms),
        sum_squared_storage_error=_squared_storage_error(stored, rows),
    )
    return record, stored | {"outliers": is_outlier.nonzero()[:, 0]}


def _squared_distance(rows: Tensor, centre: Tensor) -> float:
    chunks = (chunk.float() - centre.float() for chunk in rows.split(_CHUNK_ROWS))
    return sum(float(chunk.norm(dim=1).double().pow(2).sum()) for chunk in chunks)


def _squared_storage_error(stored: dict[str, Tensor], rows: Tensor) -> float:
    if stored["activations"].dtype == rows.dtype:
        return 0.0
    total = 0.0
    for start in range(0, len(rows), _CHUNK_ROWS):
        chunk = slice(start, start + _CHUNK_ROWS)
        error = decode_rows({key: value[chunk] for key, value in stored.items()}).sub_(rows[chunk])
        total += float(error.norm(dim=1).double().pow(2).sum())
    return total


def read_numpy(path: Path) -> "dict[str, NDArray[Any]]":
    """The arrays of a shard file (or of any safetensors file) without torch; bfloat16, which numpy lacks, as float32.

    int8 rows are to be multiplied by their ``scale``. Nothing is verified: see `hookpoints.shards.ActivationDataset` for that.
    """
    import numpy as np

    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    arrays: dict[str, NDArray[Any]] = {}
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        start, stop = (8 + size + offset for offset in tensor["data_offsets"])
        flat = np.frombuffer(content[start:stop], dtype=_NUMPY_DTYPES[tensor["dtype"]])
        if tensor["dtype"] == "BF16":  # the upper half of a float32
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        arrays[name] = flat.reshape(tensor["shape"])
    return arrays
