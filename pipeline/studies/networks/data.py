"""Rows of a network study: drawn, read from a CSV file, or taken from activations with token-level labels."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from core.csv_rows import read_csv_rows
from hookpoints.config import LabelConfig, Split
from hookpoints.labels import row_strata
from hookpoints.models import load_tokenizer
from hookpoints.shards import ActivationDataset
from pipeline.studies.networks.study import ActivationData, CSVData, Data, NetworkStudy, SyntheticData
from saes.io import load_sae
from twolayer.config import CLASSIFICATION
from twolayer.data import Preparation, Rows, fit_preparation, synthetic_rows

if TYPE_CHECKING:
    import pandas as pd


class Task(NamedTuple):
    """Prepared rows of one task."""

    train: Rows
    validation: Rows
    """For choosing beta."""
    test: Rows
    preparation: Preparation
    description: str


def load_task(study: NetworkStudy, name: str, dataset: ActivationDataset | None) -> Task:
    """The rows of one of the study's tasks, drawn from ``dataset`` where it reads activations.

    Raises ValueError saying which file, column or label is at fault.
    """
    data = study.data
    match data:
        case SyntheticData():
            parts, description = _synthetic(study, data)
        case CSVData():
            parts, description = _csv(study, data)
        case ActivationData():
            label = data.labels[study.tasks.index(name)]
            assert dataset is not None
            parts, description = _activations(data, label, dataset)
    preparation = fit_preparation(
        parts[0].x, standardise=data.standardise, n_components=data.n_components, has_bias=data.bias
    )
    train, validation, test = (Rows(preparation(part.x), part.y) for part in parts)
    return Task(train, validation, test, preparation, description)


def _synthetic(study: NetworkStudy, data: SyntheticData) -> tuple[list[Rows], str]:
    generator = torch.Generator().manual_seed(data.seed)
    classes = study.train.loss in CLASSIFICATION
    sizes = (data.n_train, data.n_held_out, data.n_held_out)
    parts = [
        synthetic_rows(data.task, n, data.d, noise=data.noise, classes=classes, generator=generator) for n in sizes
    ]
    return parts, f"synthetic task {data.task}, d {data.d}, noise {data.noise:g}, seed {data.seed}"


def _csv(study: NetworkStudy, data: CSVData) -> tuple[list[Rows], str]:
    path = data.file
    table = read_csv_rows(path, "data.path:")
    if data.target not in table:
        raise ValueError(f"data.target: {path} has no column {data.target!r}; it has {', '.join(map(str, table))}")
    y = _targets(table.pop(data.target), path, classes=study.train.loss in CLASSIFICATION)
    x = _features(table, path)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(data.seed))
    n_held_out = round(data.held_out_fraction * len(x))
    if n_held_out < 1 or len(x) - 2 * n_held_out < 1:
        raise ValueError(f"{path} has {len(x)} rows; too few to train, choose beta and test")
    pieces = order.split([len(x) - 2 * n_held_out, n_held_out, n_held_out])
    return [Rows(x[piece], y[piece]) for piece in pieces], f"{path}, {len(x)} rows"


def _features(table: "pd.DataFrame", path: Path) -> Tensor:
    """``[n, n_columns]``: every column, if it holds finite numbers and nothing else."""
    import pandas as pd

    columns = {str(name): table[name] for name in table}
    texts = [name for name, column in columns.items() if not pd.api.types.is_numeric_dtype(column)]
    if texts:
        raise ValueError(
            f"{path}: the columns {', '.join(texts)} are not numeric; encode them as numbers or leave them out"
        )
    x = torch.from_numpy(table.to_numpy(dtype="float64", copy=True))
    unknown = [name for name, column in zip(columns, x.T, strict=True) if not bool(column.isfinite().all())]
    if unknown:
        raise ValueError(
            f"{path}: the columns {', '.join(unknown)} hold values that are missing or infinite; drop or fill those rows"
        )
    return x


def _targets(column: "pd.Series", path: Path, *, classes: bool) -> Tensor:
    """``[n]``: the column's numbers, or -1 and 1 for its two values in sorted order."""
    import pandas as pd

    n_missing = int(column.isna().to_numpy().sum())
    if n_missing:
        raise ValueError(f"{path}: {column.name} is missing in {n_missing} rows; drop or fill them")
    if classes:
        values = sorted(column.unique().tolist())
        if len(values) != 2:
            raise ValueError(
                f"{path}: {column.name} holds {len(values)} different values; logistic and hinge loss take two classes"
            )
        return torch.from_numpy((column == values[1]).to_numpy(dtype="float64", copy=True)) * 2 - 1
    if not pd.api.types.is_numeric_dtype(column):
        raise ValueError(
            f"{path}: {column.name} is not numeric; squared loss needs numbers, logistic and hinge take classes"
        )
    return torch.from_numpy(column.to_numpy(dtype="float64", copy=True))


def hook_of(data: Data, dataset: ActivationDataset) -> str:
    """Whose rows are probed. Raises ValueError where the study's hook is not harvested, or does not say which."""
    assert isinstance(data, ActivationData)
    if data.hook_name is not None and data.hook_name not in dataset.hook_names:
        raise ValueError(
            f"data.hook_name: {data.hook_name!r} is not harvested; there is {', '.join(dataset.hook_names)}"
        )
    if data.hook_name is None and len(dataset.hook_names) > 1:
        raise ValueError(f"data.hook_name: the activations hold {', '.join(dataset.hook_names)}; name one of them")
    return data.hook_name or dataset.hook_names[0]


def _activations(data: ActivationData, label: LabelConfig, dataset: ActivationDataset) -> tuple[list[Rows], str]:
    hook_name = hook_of(data, dataset)
    tokenizer = load_tokenizer(data.model)
    encode = load_sae(data.sae).encode if data.sae else None
    generator = torch.Generator().manual_seed(data.seed)

    def collect(split: Split) -> tuple[Tensor, Tensor, Tensor]:
        rows, strata, documents = [], [], []
        for shard in dataset.shards(split):
            stored = dataset.read(hook_name, shard)
            tokens = dataset.read_tokens(shard)
            found = row_strata(label, dataset, tokenizer, split, tokens)
            kept = ~stored.is_outlier & (found >= 0)
            rows.append(stored.activations[kept])
            strata.append(found[kept])
            documents.append(tokens["document"][kept].long())
        return torch.cat(rows), torch.cat(strata), torch.cat(documents)

    x, strata, documents = collect("train")
    is_fit = documents % 5 != 0
    train = _draw(x[is_fit], strata[is_fit], data.n_train, label, generator, balanced=True)
    validation = _draw(x[~is_fit], strata[~is_fit], data.n_held_out, label, generator, balanced=False)
    test = _draw(*collect("held_out")[:2], data.n_held_out, label, generator, balanced=False)
    share = float((test.y > 0).double().mean())
    if encode is not None:
        train, validation, test = (Rows(encode(part.x.float()).double(), part.y) for part in (train, validation, test))
    description = (
        f"{label.name} on {f'SAE latents ({data.sae})' if data.sae else hook_name}, {len(train.x):,} training rows, "
        f"{len(test.x):,} test rows of other documents ({share:.1%} positive)"
    )
    return [train, validation, test], description


def _draw(x: Tensor, strata: Tensor, n: int, label: LabelConfig, generator: torch.Generator, *, balanced: bool) -> Rows:
    """Up to n rows, as many of every stratum if balanced; those of an exclusive-or always are."""
    order = torch.randperm(len(x), generator=generator)
    of_stratum = [order[strata[order] == stratum] for stratum in range(label.n_strata)]
    counts = [len(rows) for rows in of_stratum]
    if min(counts) == 0:
        raise ValueError(
            f"label {label.name}: its {label.n_strata} strata hold {', '.join(map(str, counts))} rows; a probe needs all of them "
            "in training, validation and test documents: raise harvest.n_tokens or choose another label"
        )
    if balanced or label.xor is not None:
        share = min(n // label.n_strata, *counts)
        chosen = torch.cat([rows[:share] for rows in of_stratum])
    else:
        chosen = order[:n]
    is_positive = torch.isin(strata[chosen], torch.tensor(label.positive_strata))
    return Rows(x[chosen].double(), is_positive.double() * 2 - 1)
