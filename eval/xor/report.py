"""The report of an XOR-cluster study: verdicts, the grokking curve, the neurons' directions."""

from collections.abc import Mapping, Sequence

import pandas as pd

from core.schema import exactly
from eval.page.charts import Chart, Curve, Histogram
from eval.page.report import VERDICTS, Report, StudyFacts, closing_sections
from eval.page.sections import Section, Verdict
from eval.xor.verdicts import claims, quantile_table, sentences, verdict_table
from twolayer.xor.config import XORConfig

_NOTE = (
    "Median over seeds, with a band from the 20 % to the 80 % quantile; on the logarithmic axis step 0 is drawn at 0.5."
)
Projections = Mapping[float, Mapping[int, Sequence[Sequence[float]]]]
"""By learning rate and step: cosines of every neuron of every seed with mu_1 and mu_2."""


def xor_report(table: pd.DataFrame, projections: Projections, config: XORConfig, facts: StudyFacts) -> Report:
    """From the rows of `eval.csv` and the neurons' cosines."""
    summary = quantile_table(table)
    verdicts = verdict_table({float(rate): claims(rows) for rate, rows in table.groupby("learning_rate")})  # pyright: ignore[reportArgumentType]
    rates = summary["learning_rate"].unique()
    curves = [chart for rate in rates for chart in _curves(summary.query("learning_rate == @rate"), rate)]
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
            verdicts=[Verdict(title, said) for title, said in sentences(verdicts).items()],
        ),
        Section("Grokking", note=_NOTE, figures=curves),
        Section(
            "Neurons",
            note=f"Cosines of the neurons' weights with mu_1, all of {n_seeds} seeds: neurons of positive output turn along "
            "+-mu_1, those of negative output stay orthogonal to it.",
            figures=histograms,
        ),
        Section("Medians and quantiles over seeds", table=summary),
        *closing_sections(facts),
    ]
    lead = (
        f"{n_seeds} seeds, {config.n_train} training rows of {config.n_features:,} features in four clusters at distance "
        f"{config.norm:.4g} from the origin, {config.flip_fraction:.0%} of the labels flipped, {config.n_neurons:,} neurons."
    )
    tables = {VERDICTS: verdicts, "quantiles.csv": summary}
    return Report(f"{facts.name}: grokking on XOR clusters", lead, sections, tables)


def _curves(summary: pd.DataFrame, rate: float) -> list[Chart]:
    steps = [max(float(step), 0.5) for step in summary["step"]]

    def curve(label: str, metric: str) -> Curve:
        low, median, high = (summary[f"{metric}_{part}"].tolist() for part in ("q20", "median", "q80"))
        return Curve(label, steps, median, low, high)

    def chart(name: str, title: str, label: str, curves: Sequence[Curve]) -> Chart:
        return Chart(
            f"{name}-rate_{exactly(rate)}", f"{title}, learning rate {exactly(rate)}", "Step", label, curves, log_x=True
        )

    accuracies = [
        curve("train (flips included)", "train_accuracy"),
        curve("test (clean)", "test_accuracy"),
        curve("flipped training labels", "flipped_fit"),
    ]
    shares = [
        curve("neurons on their own feature", "own_feature_share"),
        curve("R² of the linear model", "linear_r_squared"),
    ]
    return [
        chart("grokking", "accuracy", "Accuracy", accuracies),
        chart("features", "feature learning", "Share", shares),
    ]


def _histogram(values: Sequence[Sequence[float]], step: int, rate: float, n_neurons: int) -> Histogram:
    """Cosines with mu_1 over all seeds, by the sign of the output weight: each seed lists its positive neurons first."""
    halves: dict[str, list[float]] = {"output weight > 0": [], "output weight < 0": []}
    names = list(halves)
    for number, (with_first, _) in enumerate(values):
        halves[names[int(number % n_neurons >= n_neurons // 2)]].append(with_first)
    title = f"step {step}, learning rate {exactly(rate)}"
    name = f"neurons-step_{step}-rate_{exactly(rate)}"
    return Histogram(name, title, "Cosine with mu_1", "Share of neurons", list(halves.items()))
