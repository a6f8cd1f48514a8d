"""One family of SAEs against another: gap of their fronts, and values at matched L0, with intervals."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eval.saes.documents import DocumentSums
from eval.saes.draws import Draws, Quantity, draws, smallest_gaps
from eval.saes.families import Family, Selector, families, pairs
from eval.saes.intervals import Interval, compared
from eval.saes.pareto import Gap, dead_fraction_ratio, gap

Array = NDArray[np.float64]

MATCHED = "matched.csv"
MATCHED_L0 = (16.0, 32.0, 64.0, 128.0)
_MOST_ROWS = 600
"""Of the page's table; all are in matched.csv."""


class Matched(NamedTuple):
    """A quantity of A and B at one L0."""

    quantity: Quantity
    l0: float
    a: float
    """NaN outside the range that A was swept over: never extrapolated."""
    b: float
    difference: float
    interval: Interval | str
    """95 % of the difference, or why there is none."""


class Comparison(NamedTuple):
    """One family against another on the same hookpoint."""

    hook_name: str
    a: Family
    b: Family
    gap: Gap | None
    """None when their L0 ranges do not overlap."""
    smallest_gap: Interval | str
    """95 % of its minimum, or why there is none."""
    has_documents: bool
    """Whether intervals are over documents as well as seeds."""
    matched: list[Matched]
    """At each of `MATCHED_L0`, every quantity that was measured of both."""
    dead_fraction_ratio: float | None
    """Geometric mean of A / B over the sweep; None without overlap, and when neither has a dead latent."""


def compare_all(
    table: pd.DataFrame,
    compare: Sequence[tuple[Selector, Selector]] | None = None,
    documents: Mapping[str, DocumentSums] | None = None,
) -> list[Comparison]:
    """The comparisons that a study names; by default every signed family against every unsigned one of its hookpoint.

    ``documents``: what was measured of every SAE by document, by `sae_id`; without them intervals are over seeds alone.
    """
    found = families(table)
    known = {id(family): _Known(family, documents) for family in found}
    return [_compare(known[id(a)], known[id(b)]) for a, b in pairs(found, compare)]


class _Known:
    """A family's sweep, and what is drawn from it once for all its comparisons."""

    def __init__(self, family: Family, documents: Mapping[str, DocumentSums] | None) -> None:
        self.family, self.sweep = family, family.sweep(documents)

    @cached_property
    def draws(self) -> dict[Quantity, Draws]:
        """Of what was measured."""
        found: dict[Quantity, Draws] = {}
        for quantity in get_args(Quantity):
            one = draws(self.sweep, quantity)
            if one is not None:
                found[quantity] = one
        return found

    @cached_property
    def at_matched(self) -> dict[Quantity, Array]:
        """``[n_curves, n]``: at each of `MATCHED_L0`."""
        targets = np.log(MATCHED_L0)
        return {
            quantity: one.curves.at(np.tile(targets, (len(one.curves.log_l0), 1)))
            for quantity, one in self.draws.items()
        }


def _compare(a: _Known, b: _Known) -> Comparison:
    of_a, of_b = a.draws["r_squared"], b.draws["r_squared"]
    between = gap(a.sweep, b.sweep)
    smallest: Interval | str = "they share no range of L0"
    if between is not None:
        smallest = compared(of_a, of_b, lambda i, j: smallest_gaps(of_a.curves.only(i), of_b.curves.only(j)))[1][0]
    measured: list[Quantity] = [quantity for quantity in a.draws if quantity in b.draws]
    return Comparison(
        a.family.hook_name,
        a.family,
        b.family,
        between,
        smallest,
        min(of_a.n_groups, of_b.n_groups) > 0,
        [one for quantity in measured for one in _matched(a, b, quantity)],
        dead_fraction_ratio(a.sweep, b.sweep),
    )


def _matched(a: _Known, b: _Known, quantity: Quantity) -> list[Matched]:
    at_a, at_b = a.at_matched[quantity], b.at_matched[quantity]
    differences, intervals = compared(a.draws[quantity], b.draws[quantity], lambda i, j: at_a[i] - at_b[j])
    return [
        Matched(quantity, l0, float(at_a[0, place]), float(at_b[0, place]), float(differences[place]), intervals[place])
        for place, l0 in enumerate(MATCHED_L0)
    ]


def matched_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """`matched.csv`: a row for each comparison, quantity and L0."""
    return pd.DataFrame(
        [
            {
                "hook_name": c.hook_name,
                "a": c.a.label,
                "b": c.b.label,
                "quantity": one.quantity,
                "l0": one.l0,
                "value_a": one.a,
                "value_b": one.b,
                "difference": one.difference,
                **_interval_columns("", one.interval, one.difference),
            }
            for c in comparisons
            for one in c.matched
        ]
    )


def matched_for_people(matched: pd.DataFrame) -> pd.DataFrame:
    """A row for each comparison and quantity, a column for each L0; of the first ones, where there are very many."""
    keys = ["hook_name", "a", "b", "quantity"]
    shown = matched.assign(said=[_said(*row) for row in matched[["difference", "low", "high"]].itertuples(index=False)])
    wide = shown.pivot_table(index=keys, columns="l0", values="said", aggfunc="first", sort=False).reset_index()
    wide.columns = [name if isinstance(name, str) else f"L0 {name:g}" for name in wide.columns]
    return wide.head(_MOST_ROWS)


def _said(difference: float, low: float, high: float) -> str:
    if difference != difference:
        return "–"
    return f"{difference:+.4f}" + ("" if pd.isna(low) else f" ({low:+.4f} to {high:+.4f})")


def verdict_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """The numbers of every comparison, a row each; empty cells where there are none."""
    return pd.DataFrame([_row(comparison) for comparison in comparisons])


def _row(c: Comparison) -> dict[str, Any]:
    g = c.gap
    return {
        "hook_name": c.hook_name,
        "a": c.a.label,
        "b": c.b.label,
        "n_params_a": c.a.n_params,
        "n_params_b": c.b.n_params,
        "l0_low": g.l0_low if g else None,
        "l0_high": g.l0_high if g else None,
        "gap_minimum": g.minimum if g else None,
        "gap_maximum": g.maximum if g else None,
        "gap_mean": g.mean if g else None,
        "share_positive": g.share_positive if g else None,
        **_interval_columns("gap_minimum_", c.smallest_gap, g.minimum if g else float("nan")),
        "has_documents": c.has_documents,
        "dominates_mean_front": g.dominates if g else None,
        **_at_64(c),
        "dead_fraction_ratio": c.dead_fraction_ratio,
    }


def _at_64(c: Comparison) -> dict[str, Any]:
    """Columns of what was measured at an L0 of 64."""
    columns: dict[str, Any] = {}
    for one in c.matched:
        if one.l0 == 64:
            columns |= {f"{one.quantity}_a_at_64": one.a, f"{one.quantity}_b_at_64": one.b}
            columns |= _interval_columns(f"{one.quantity}_at_64_", one.interval, one.difference)
    return columns


def _interval_columns(prefix: str, interval: Interval | str, value: float) -> dict[str, Any]:
    """Its ends, or the reason why a value that there is has none."""
    if isinstance(interval, str):
        return {f"{prefix}low": None, f"{prefix}high": None, f"{prefix}note": interval if value == value else ""}
    return {f"{prefix}low": interval.low, f"{prefix}high": interval.high, f"{prefix}note": ""}
