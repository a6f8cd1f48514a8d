"""Verdicts in words, with their numbers: does the sign-aware SAE beat the Gated one, where, and how surely?"""

from typing import NamedTuple

import pandas as pd

from eval.saes.families import Family, families
from eval.saes.pareto import Curve, Dominance, dead_fraction_ratio, dominance, mean_dead_fraction, mean_front

MATCHED_L0 = 64.0


class Comparison(NamedTuple):
    """A sign-aware family against a Gated one on the same hookpoint."""

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


def compare_all(table: pd.DataFrame) -> list[Comparison]:
    """Every sign-aware family against every Gated family of its hookpoint."""
    found = families(table)
    signed = [family for family in found if family.architecture == "sa_gated"]
    gated = [family for family in found if family.architecture == "gated"]
    return [compare(a, b) for a in signed for b in gated if a.hook_name == b.hook_name]


def compare(a: Family, b: Family) -> Comparison:
    """All verdict numbers of A over B."""
    sweep_a, sweep_b = a.sweep, b.sweep
    return Comparison(
        a.hook_name,
        a,
        b,
        dominance(sweep_a, sweep_b),
        _matched(mean_front(sweep_a), mean_front(sweep_b)),
        _matched(mean_dead_fraction(sweep_a), mean_dead_fraction(sweep_b)),
        dead_fraction_ratio(sweep_a, sweep_b),
    )


def sentences(comparison: Comparison) -> list[str]:
    """What the numbers say, one sentence each."""
    a, b = comparison.a.label, comparison.b.label
    share = comparison.a.n_params / comparison.b.n_params
    said = [f"{a} has {comparison.a.n_params:,} parameters, {share:.2f} times the {comparison.b.n_params:,} of {b}."]
    if comparison.dominance is None:
        return [
            *said,
            f"{a} and {b} share no range of L0, so their fronts cannot be compared; widen the lambda sweep.",
        ]
    said.append(_dominance_sentence(a, b, comparison.dominance))
    said.append(_interval_sentence(comparison.dominance))
    if comparison.r_squared_matched is None:
        said.append(
            f"L0 = {MATCHED_L0:g} lies outside the L0 range that both fronts cover, so no value is given there."
        )
    else:
        at_a, at_b = comparison.r_squared_matched
        said.append(f"At matched L0 = {MATCHED_L0:g}, R² is {at_a:.4f} against {at_b:.4f} ({at_a - at_b:+.4f}).")
    if comparison.dead_fraction_matched is not None:
        dead_a, dead_b = comparison.dead_fraction_matched
        change = f"{dead_a:.4f} against {dead_b:.4f} ({dead_a - dead_b:+.4f})" if dead_a or dead_b else "zero for both"
        said.append(f"At matched L0 = {MATCHED_L0:g}, the dead fraction is {change}.")
    if comparison.dead_fraction_ratio is None:
        said.append("Neither has a dead latent over the sweep.")
    else:
        said.append(
            f"Over the sweep, its dead fraction is {comparison.dead_fraction_ratio:.2f} times that of {b} "
            "(geometric mean at equal L0; no dead latent counts as half a latent)."
        )
    return said


def verdict_table(comparisons: list[Comparison]) -> pd.DataFrame:
    """The numbers behind the sentences, one row per comparison."""
    rows = []
    for c in comparisons:
        d = c.dominance
        rows.append(
            {
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
        )
    return pd.DataFrame(rows)


def _matched(a: Curve, b: Curve) -> tuple[float, float] | None:
    if len(a.l0) == 0 or len(b.l0) == 0:
        return None
    at_a, at_b = float(a.at(MATCHED_L0)), float(b.at(MATCHED_L0))
    return None if at_a != at_a or at_b != at_b else (at_a, at_b)


def _dominance_sentence(a: str, b: str, d: Dominance) -> str:
    where = f"for L0 from {d.l0_low:.1f} to {d.l0_high:.1f}"
    gap = f"R² gap from {d.minimum:+.4f} to {d.maximum:+.4f}"
    if d.is_strict:
        return f"{a} strictly dominates {b} {where}: {gap}."
    if d.maximum < 0:
        return f"{b} strictly dominates {a} {where}: {gap}."
    return f"Neither dominates {where}: {a} lies above {b} on {d.share_positive:.0%} of that range, {gap}."


def _interval_sentence(d: Dominance) -> str:
    if d.interval is None:
        return "There is one seed, so nothing is known of the spread; give more seeds for an interval."
    low, high = d.interval
    return f"Over seeds, the smallest gap has a 95 % bootstrap interval from {low:+.4f} to {high:+.4f}."
