"""Verdicts in words, with their numbers: does one family of SAEs beat another, where, and how surely?"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from eval.saes.families import Family, Selector, families, is_diverged, pairs
from eval.saes.pareto import Curve, Dominance, Sweep, dead_fraction_ratio, dominance, mean_dead_fraction
from eval.saes.spread import DECISIVE_SHARE

MATCHED_L0 = 64.0
_LEAST_TELLING_L0 = 8.0
"""Below it an SAE explains so little that fronts there tell little about it."""
_LEAST_TELLING_OVERLAP = 2.0
"""As a ratio of L0."""


class Comparison(NamedTuple):
    """One family against another on the same hookpoint."""

    hook_name: str
    a: Family
    b: Family
    dominance: Dominance | None
    r_squared_matched: tuple[float, float] | None
    """R2 of A and B at L0 = 64; None where either was not swept that far (never extrapolated)."""
    dead_fraction_matched: tuple[float, float] | None
    """Dead fraction of A and B at L0 = 64."""
    dead_fraction_ratio: float | None
    """Geometric mean of A / B over the sweep; None without overlap, and when neither has a dead latent."""


def compare_all(table: pd.DataFrame, compare: Sequence[tuple[Selector, Selector]] | None = None) -> list[Comparison]:
    """The comparisons that a study names; by default every signed family against every unsigned one of its hookpoint."""
    found = families(table)
    sweeps = {id(family): family.sweep for family in found}
    return [_compare(a, b, sweeps[id(a)], sweeps[id(b)]) for a, b in pairs(found, compare)]


def _compare(a: Family, b: Family, sweep_a: Sweep, sweep_b: Sweep) -> Comparison:
    return Comparison(
        a.hook_name,
        a,
        b,
        dominance(sweep_a, sweep_b),
        _matched(sweep_a.front, sweep_b.front),
        _matched(mean_dead_fraction(sweep_a), mean_dead_fraction(sweep_b)),
        dead_fraction_ratio(sweep_a, sweep_b),
    )


def verdict_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """The numbers of every comparison, a row each; empty cells where there are none."""
    return pd.DataFrame([_row(comparison) for comparison in comparisons])


def _row(c: Comparison) -> dict[str, Any]:
    d = c.dominance
    return {
        "hook_name": c.hook_name,
        "a": c.a.label,
        "b": c.b.label,
        "n_params_a": c.a.n_params,
        "n_params_b": c.b.n_params,
        "l0_low": d.l0_low if d else None,
        "l0_high": d.l0_high if d else None,
        "gap_minimum": d.minimum if d else None,
        "gap_maximum": d.maximum if d else None,
        "gap_mean": d.mean if d else None,
        "share_positive": d.share_positive if d else None,
        "gap_minimum_low": d.interval[0] if d and d.interval else None,
        "gap_minimum_high": d.interval[1] if d and d.interval else None,
        "strictly_dominates": d.is_strict if d else None,
        "r_squared_a_at_64": c.r_squared_matched[0] if c.r_squared_matched else None,
        "r_squared_b_at_64": c.r_squared_matched[1] if c.r_squared_matched else None,
        "dead_fraction_a_at_64": c.dead_fraction_matched[0] if c.dead_fraction_matched else None,
        "dead_fraction_b_at_64": c.dead_fraction_matched[1] if c.dead_fraction_matched else None,
        "dead_fraction_ratio": c.dead_fraction_ratio,
    }


def sentences(verdicts: pd.DataFrame) -> dict[str, list[str]]:
    """A verdict table, as `verdict_table` makes it and `verdicts.csv` holds it, in words: by title, a sentence each."""
    said: dict[str, list[str]] = {}
    for row in verdicts.to_dict("records"):
        known = {str(name): None if pd.isna(value) else value for name, value in row.items()}
        said[f"{known['hook_name']}: {known['a']} against {known['b']}"] = _sentences(known)
    return said


def _sentences(row: dict[str, Any]) -> list[str]:
    a, b = row["a"], row["b"]
    share = row["n_params_a"] / row["n_params_b"]
    said = [f"{a} has {row['n_params_a']:,} parameters, {share:.2f} times the {row['n_params_b']:,} of {b}."]
    if row["l0_low"] is None:
        return [*said, f"{a} and {b} share no range of L0, so their fronts cannot be compared; widen the lambda sweep."]
    said.append(_dominance_sentence(row))
    said += _reservations(row)
    said.append(_interval_sentence(row))
    at_a, at_b = row["r_squared_a_at_64"], row["r_squared_b_at_64"]
    if at_a is None:
        said.append(
            f"L0 = {MATCHED_L0:g} lies outside the L0 range that both fronts cover, so no value is given there."
        )
    else:
        said.append(f"At matched L0 = {MATCHED_L0:g}, R² is {at_a:.4f} against {at_b:.4f} ({at_a - at_b:+.4f}).")
    dead_a, dead_b = row["dead_fraction_a_at_64"], row["dead_fraction_b_at_64"]
    if dead_a is not None:
        change = f"{dead_a:.4f} against {dead_b:.4f} ({dead_a - dead_b:+.4f})" if dead_a or dead_b else "zero for both"
        said.append(f"At matched L0 = {MATCHED_L0:g}, the dead fraction is {change}.")
    if row["dead_fraction_ratio"] is None:
        said.append("Neither has a dead latent over the sweep.")
    else:
        said.append(
            f"Over the sweep, its dead fraction is {row['dead_fraction_ratio']:.2f} times that of {b} "
            "(geometric mean at equal L0; no dead latent counts as half a latent)."
        )
    return said


def concentration(table: pd.DataFrame) -> dict[str, list[str]]:
    """Warnings of SAEs that diverged and of hooks whose R² a few rows decide, from the rows of `eval.csv`: by title, a
    sentence each."""
    said = _diverged(table)
    for hook_name, rows in table.groupby("hook_name", sort=False):
        share = max(_values(rows, "top_1_percent_share_of_sst"))
        if share > DECISIVE_SHARE:
            said[f"{hook_name}: a few rows decide R²"] = [
                f"1 % of the held-out rows hold {share:.0%} of the sum of squares that R² is measured against, so R² says "
                f"mostly how those are reconstructed: {_range(_values(rows, 'r_squared'))} with them, "
                f"{_range(_values(rows, 'r_squared_without_top_1_percent'))} without.",
                "Attention sinks do that: see the norms below, and set harvest.prepend_bos or a lower "
                "harvest.norm_outlier_factor.",
            ]
    return said


def _diverged(table: pd.DataFrame) -> dict[str, list[str]]:
    rows = table[is_diverged(table)]
    said = [f"{sae_id}: R² {value:.2g}" for sae_id, value in zip(rows["sae_id"], rows["r_squared"], strict=True)]
    advice = "They are in the table, and in no curve or verdict; lower their learning rate."
    return {"Diverged: worse than twice the error of the mean": [*said, advice]} if said else {}


def _values(rows: pd.DataFrame, column: str) -> list[float]:
    return rows[column].to_numpy(dtype=np.float64).tolist()


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}"


def _matched(a: Curve, b: Curve) -> tuple[float, float] | None:
    if len(a.l0) == 0 or len(b.l0) == 0:
        return None
    at_a, at_b = float(a.at(MATCHED_L0)), float(b.at(MATCHED_L0))
    return None if at_a != at_a or at_b != at_b else (at_a, at_b)


def _dominance_sentence(row: dict[str, Any]) -> str:
    a, b = row["a"], row["b"]
    where = f"for L0 from {row['l0_low']:.1f} to {row['l0_high']:.1f}"
    gap = f"R² gap from {row['gap_minimum']:+.4f} to {row['gap_maximum']:+.4f}"
    if row["strictly_dominates"]:
        return f"{a} strictly dominates {b} {where}: {gap}."
    if row["gap_maximum"] < 0:
        return f"{b} strictly dominates {a} {where}: {gap}."
    return f"Neither dominates {where}: {a} lies above {b} on {row['share_positive']:.0%} of that range, {gap}."


def _reservations(row: dict[str, Any]) -> list[str]:
    """Where the fronts are compared tells little by itself."""
    low, high = row["l0_low"], row["l0_high"]
    said = []
    if high <= _LEAST_TELLING_L0:
        said.append(f"This says little: below L0 of {_LEAST_TELLING_L0:g} too few latents fire; sweep lower lambdas.")
    elif low < _LEAST_TELLING_L0:
        said.append(f"Below L0 of {_LEAST_TELLING_L0:g} this says little: too few latents fire there.")
    if high < _LEAST_TELLING_OVERLAP * low:
        said.append(
            f"This says little: the fronts share less than a factor of {_LEAST_TELLING_OVERLAP:g} in L0; widen the sweeps."
        )
    return said


def _interval_sentence(row: dict[str, Any]) -> str:
    low, high = row["gap_minimum_low"], row["gap_minimum_high"]
    if low is None:
        return "There is one seed, so nothing is known of the spread; give more seeds for an interval."
    return f"Over seeds, the smallest gap has a 95 % bootstrap interval from {low:+.4f} to {high:+.4f}."
