"""Verdicts on XOR clusters: the claims of benign overfitting and grokking, measured; medians and quantiles over seeds."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from core.schema import exactly
from eval.xor.metrics import METRIC_NAMES

_QUANTILES = (0.2, 0.8)


class Claim(NamedTuple):
    """A claim of the theorem, measured."""

    text: str
    value: float
    """Median over seeds."""
    allowed: tuple[float, float]

    @property
    def holds(self) -> bool:
        """Whether the median lies in the allowed range."""
        return self.allowed[0] <= self.value <= self.allowed[1]


def claims(table: pd.DataFrame) -> list[Claim]:
    """Benign overfitting and grokking (Xu et al. 2023, theorems 3.1 and 3.2) on the rows of one learning rate.

    A claim whose step was not measured is left out.
    """

    def median(column: str, step: int) -> float:
        return float(np.median(table.loc[table["step"] == step, column].to_numpy(dtype=np.float64)))

    steps = {int(step) for step in table["step"].unique()}
    last, found = max(steps), []
    trained = table[table["step"] >= 1].groupby("step")["train_accuracy"].median()
    if len(trained):
        found.append(
            Claim("every training point is fit from step 1 on, flipped ones too", min(trained.tolist()), (1.0, 1.0))
        )
    if 1 in steps:
        found += [
            Claim("after one step test accuracy is that of a coin", median("test_accuracy", 1), (0.45, 0.57)),
            Claim(
                "after one step the network is the linear classifier (alpha / 8n) <sum y_i x_i, x>: slope over that",
                median("linear_slope", 1),
                (0.9, 1.1),
            ),
            Claim("and it is linear on test rows: R² of that fit", median("linear_r_squared", 1), (0.9, 1.0)),
        ]
    if 10 in steps:
        found.append(
            Claim(
                "by step 10 neurons point to the feature of their own sign",
                median("own_feature_share", 10),
                (0.99, 1.0),
            )
        )
    later = min((step for step in steps if step >= 20), default=None)
    if later is not None:
        text = f"at step {later} the network generalises to clean test rows"
        found.append(Claim(text, median("test_accuracy", later), (0.95, 1.0)))
    if last > 1:
        found.append(
            Claim(f"at step {last} the flipped labels are still memorised", median("flipped_fit", last), (1.0, 1.0))
        )
    return found


def quantile_table(table: pd.DataFrame) -> pd.DataFrame:
    """Median and [20, 80 %] over seeds of every metric, by learning rate and step."""
    grouped = table.groupby(["learning_rate", "step"])[METRIC_NAMES]
    parts = {"median": grouped.median(), "q20": grouped.quantile(_QUANTILES[0]), "q80": grouped.quantile(_QUANTILES[1])}
    joined = pd.concat(parts, axis=1)
    ordered = joined.loc[:, [(part, metric) for metric in METRIC_NAMES for part in parts]]
    ordered.columns = [f"{metric}_{part}" for part, metric in ordered.columns]
    return ordered.reset_index()


def verdict_table(found: Mapping[float, Sequence[Claim]]) -> pd.DataFrame:
    """The claims of every learning rate, a row each."""
    rows = [
        {
            "learning_rate": rate,
            "claim": claim.text,
            "median": claim.value,
            "low": claim.allowed[0],
            "high": claim.allowed[1],
            "holds": claim.holds,
        }
        for rate, of in found.items()
        for claim in of
    ]
    return pd.DataFrame(rows)


def sentences(verdicts: pd.DataFrame) -> dict[str, list[str]]:
    """A verdict table in words: by title, a sentence each."""
    said: dict[str, list[str]] = {}
    for row in verdicts.to_dict("records"):
        holds = "Holds" if row["holds"] else "Does not hold"
        sentence = f"{holds}: {row['claim']} (median {row['median']:.3f})."
        said.setdefault(f"learning rate {exactly(row['learning_rate'])}", []).append(sentence)
    return said
