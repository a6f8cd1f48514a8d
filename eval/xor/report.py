"""Verdicts and report of an XOR-cluster study: the grokking curve, the neurons' directions, and the theorem's claims."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from eval.page.charts import Chart, Curve, Histogram, interactive, write_static
from eval.page.sections import Panel, Section, Verdict, write_page
from eval.saes.report import ReportFiles, StudyFacts, closing_sections
from core.files import write_atomically
from twolayer.xor.descent import XORConfig

_QUANTILES = (0.2, 0.8)
_METRICS = [
    "train_accuracy", "test_accuracy", "flipped_fit", "own_feature_share", "linear_slope", "linear_r_squared",
]  # fmt: skip
_NOTE = (
    "Median over seeds, with a band from the 20 % to the 80 % quantile; on the logarithmic axis step 0 is drawn at 0.5."
)


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

    def sentence(self) -> str:
        """The claim and its number."""
        return f"{'Holds' if self.holds else 'Does not hold'}: {self.text} (median {self.value:.3f})."


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
    grouped = table.groupby(["learning_rate", "step"])[_METRICS]
    parts = {"median": grouped.median(), "q20": grouped.quantile(_QUANTILES[0]), "q80": grouped.quantile(_QUANTILES[1])}
    joined = pd.concat(parts, axis=1)
    ordered = joined.loc[:, [(part, metric) for metric in _METRICS for part in parts]]
    ordered.columns = [f"{metric}_{part}" for part, metric in ordered.columns]
    return ordered.reset_index()


def write_xor_report(
    folder: Path, table: pd.DataFrame, projections: dict[float, dict[int, list[list[float]]]], config: XORConfig,
    facts: StudyFacts,
) -> ReportFiles:  # fmt: skip
    """Write ``report.html``, ``verdicts.csv`` and ``plots/*.png`` from `eval.csv` and the neurons' cosines by step."""
    summary = quantile_table(table)
    by_rate = {float(rate): rows for rate, rows in table.groupby("learning_rate")}  # pyright: ignore[reportArgumentType]
    found = {rate: claims(rows) for rate, rows in by_rate.items()}
    curves = [chart for rate in by_rate for chart in _curves(summary.query("learning_rate == @rate"), rate)]
    histograms = [
        _histogram(values, step, rate, config.n_neurons)
        for rate, by_step in projections.items()
        for step, values in sorted(by_step.items())
    ]
    n_seeds = table["seed"].nunique()
    sections = [
        Section(
            "Verdicts",
            note="The claims of Xu, Wang, Frei, Vardi and Hu (2023), measured as medians over seeds.",
            verdicts=[Verdict(f"learning rate {rate:g}", [c.sentence() for c in of]) for rate, of in found.items()],
        ),
        Section("Grokking", note=_NOTE, panels=[Panel(c.title, interactive(c)) for c in curves]),
        Section(
            "Neurons",
            note=f"Cosines of the neurons' weights with mu_1, all of {n_seeds} seeds: neurons of positive output turn along "
            "+-mu_1, those of negative output stay orthogonal to it.",
            panels=[Panel(h.title, interactive(h)) for h in histograms],
        ),
        Section("Medians and quantiles over seeds", table=summary),
        *closing_sections(facts),
    ]
    html = folder / "report.html"
    lead = (
        f"{n_seeds} seeds, {config.n_train} training rows of {config.n_features:,} features in four clusters at distance "
        f"{config.norm:.4g} from the origin, {config.flip_fraction:.0%} of the labels flipped, {config.n_neurons:,} neurons."
    )
    write_page(html, f"{facts.name}: grokking on XOR clusters", lead, sections)
    verdicts = folder / "verdicts.csv"
    rows = [
        {
            "learning_rate": rate,
            "claim": c.text,
            "median": c.value,
            "low": c.allowed[0],
            "high": c.allowed[1],
            "holds": c.holds,
        }
        for rate, of in found.items()
        for c in of
    ]
    write_atomically(verdicts, lambda path: pd.DataFrame(rows).to_csv(path, index=False))
    quantiles = folder / "quantiles.csv"
    write_atomically(quantiles, lambda path: summary.to_csv(path, index=False))
    pngs = write_static(folder / "plots", [*curves, *histograms])
    return ReportFiles(html, pngs, [folder / "eval.csv", verdicts, quantiles])


def _curves(summary: pd.DataFrame, rate: float) -> list[Chart]:
    steps = [max(float(step), 0.5) for step in summary["step"]]

    def curve(label: str, metric: str) -> Curve:
        low, median, high = (summary[f"{metric}_{part}"].tolist() for part in ("q20", "median", "q80"))
        return Curve(label, steps, median, low, high)

    def chart(name: str, title: str, label: str, curves: Sequence[Curve]) -> Chart:
        return Chart(f"{name}-rate_{rate:g}", f"{title}, learning rate {rate:g}", "Step", label, curves, log_x=True)

    return [
        chart(
            "grokking", "accuracy", "Accuracy",
            [curve("train (flips included)", "train_accuracy"), curve("test (clean)", "test_accuracy"),
             curve("flipped training labels", "flipped_fit")],
        ),
        chart(
            "features", "feature learning", "Share",
            [curve("neurons on their own feature", "own_feature_share"), curve("R² of the linear model", "linear_r_squared")],
        ),
    ]  # fmt: skip


def _histogram(values: list[list[float]], step: int, rate: float, n_neurons: int) -> Histogram:
    """Cosines with mu_1 over all seeds, by the sign of the output weight: each seed lists its positive neurons first."""
    halves: dict[str, list[float]] = {"output weight > 0": [], "output weight < 0": []}
    names = list(halves)
    for number, (with_first, _) in enumerate(values):
        halves[names[int(number % n_neurons >= n_neurons // 2)]].append(with_first)
    title = f"step {step}, learning rate {rate:g}"
    return Histogram(f"neurons-step_{step}-rate_{rate:g}", title, "Cosine with mu_1", list(halves.items()))
