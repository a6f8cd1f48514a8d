"""What a harvest says about itself: statistics of every shard's rows, and the manifest that they add up to."""

from typing import Any

import torch
from torch import Tensor

from hookpoints.contexts import SPLITS, ContextCounts
from hookpoints.shards import StorageDtype, decode_rows, encode_rows

_CHUNK_ROWS = 1024


def measure_and_encode(
    rows: Tensor,
    dtype: StorageDtype,
    *,
    norm_outlier_factor: float | None,
    norm_bound: float | None,
    where: str,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Statistics of one hook's rows ``[n_rows, d_in]`` in one shard, and the tensors that store them.

    ``norm_bound`` None takes ``norm_outlier_factor`` times these rows' median norm. Each row's and each chunk's sums are
    float32, those over chunks float64. Raises ValueError, naming ``where``, when a row is not finite.
    """
    norms = torch.cat([chunk.float().norm(dim=1) for chunk in rows.split(_CHUNK_ROWS)])
    if not bool(norms.isfinite().all()):
        bad = int((~norms.isfinite()).sum())
        raise ValueError(
            f"{bad} of {len(rows)} rows of {where} hold NaN or infinity; the model overflows in its dtype: "
            "set model.dtype to bfloat16 or float32. Nothing of this shard was kept"
        )
    if norm_bound is None and norm_outlier_factor is not None:
        norm_bound = norm_outlier_factor * float(norms.median())
    is_outlier = torch.zeros(len(rows), dtype=torch.bool) if norm_bound is None else norms > norm_bound
    kept = rows[~is_outlier] if bool(is_outlier.any()) else rows
    kept_sum = torch.stack([chunk.float().sum(dim=0) for chunk in kept.split(_CHUNK_ROWS)]).double().sum(dim=0)
    kept_norms = norms[~is_outlier].double()
    stored = encode_rows(rows, dtype)
    statistics = {
        "norm_bound": norm_bound,
        "n_outliers": int(is_outlier.sum()),
        "sum": kept_sum.tolist(),
        "sum_norm": float(kept_norms.sum()),
        "sum_squared_norm": float(kept_norms.pow(2).sum()),
        "sum_squared_norm_all_rows": float(norms.double().pow(2).sum()),
        "sum_squared_storage_error": _squared_storage_error(stored, rows),
    }
    return statistics, stored | {"outliers": is_outlier.nonzero()[:, 0]}


def _squared_storage_error(stored: dict[str, Tensor], rows: Tensor) -> float:
    if stored["activations"].dtype == rows.dtype:
        return 0.0
    total = 0.0
    for start in range(0, len(rows), _CHUNK_ROWS):
        chunk = slice(start, start + _CHUNK_ROWS)
        error = decode_rows({key: value[chunk] for key, value in stored.items()}).sub_(rows[chunk])
        total += float(error.norm(dim=1).double().pow(2).sum())
    return total


def manifest(
    identity: dict[str, Any],
    hook_names: list[str],
    counts: ContextCounts,
    context_length: int,
    records: list[dict[str, Any]],
) -> dict[str, Any]:
    """Everything a reader needs; a function of the shards alone, so it carries no time and no machine."""
    train = [record for record in records if record["split"] == "train"]
    hooks = {name: _hook_entry(name, train, records) for name in hook_names}
    shards = [
        {"split": r["split"], "n_rows": r["n_rows"], "sha256": r["sha256"],
         "hooks": {name: {"n_outliers": r["hooks"][name]["n_outliers"]} for name in hooks}}
        for r in records
    ]  # fmt: skip
    return {
        **identity,
        "corpus_hash": counts.corpus_hash,
        "n_documents": counts.n_documents,
        "n_contexts": {"train": counts.train, "held_out": counts.held_out},
        "n_tokens": (counts.train + counts.held_out) * context_length,
        "n_rows": {split: sum(r["n_rows"] for r in records if r["split"] == split) for split in SPLITS},
        "n_dropped": {key: sum(r["n_dropped"][key] for r in records) for key in records[0]["n_dropped"]},
        "hooks": hooks,
        "shards": shards,
    }


def _hook_entry(name: str, train: list[dict[str, Any]], records: list[dict[str, Any]]) -> dict[str, Any]:
    entries = [record["hooks"][name] for record in train]
    n_kept = sum(record["n_rows"] - record["hooks"][name]["n_outliers"] for record in train)
    if n_kept == 0:
        raise ValueError(f"{name}: no training row is left after the filters; give more tokens or looser filters")
    total = torch.tensor([entry["sum"] for entry in entries], dtype=torch.float64).sum(dim=0)
    everything = [record["hooks"][name] for record in records]
    squared = sum(entry["sum_squared_norm_all_rows"] for entry in everything)
    return {
        "d_in": len(total),
        "norm_bound": entries[0]["norm_bound"],
        "n_outliers": sum(entry["n_outliers"] for entry in everything),
        "mean_norm": sum(entry["sum_norm"] for entry in entries) / n_kept,
        "mean_squared_norm": sum(entry["sum_squared_norm"] for entry in entries) / n_kept,
        "storage_relative_error": (sum(e["sum_squared_storage_error"] for e in everything) / squared) ** 0.5,
        "mean": (total / n_kept).tolist(),
    }
