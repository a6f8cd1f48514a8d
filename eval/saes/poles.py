"""Where the bipolar directions of a family sit in its ranking by energy: chart and sentences of the census."""

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from eval.page.charts import Chart, Curve
from eval.page.sections import Verdict
from eval.saes.census import LatentSums, Ranking, ranking
from eval.saes.families import Family

_AT_L0 = 64.0
_FIRST_STRETCH = 8
_TOPS = (8, 64)
_MOST_SHOWN = 24
"""Families a hookpoint in the chart; a study of more has them in eval.csv."""


def census(
    found: Sequence[Family], latents: Callable[[str], LatentSums], min_fires: int
) -> tuple[list[Chart], list[Verdict]]:
    """Of every family at its lambda nearest to an L0 of 64: a panel and a block of sentences for each hookpoint."""
    charts, verdicts = [], []
    for hook_name in dict.fromkeys(family.hook_name for family in found):
        curves: list[Curve] = []
        said: list[str] = []
        for family in [family for family in found if family.hook_name == hook_name][:_MOST_SHOWN]:
            members = family.nearest(_AT_L0).query("l0 > 0")
            if not len(members):
                continue
            l0 = _mean(members["l0"])
            sums = [latents(str(sae_id)) for sae_id in members["sae_id"]]
            rankings = [ranking(one, min_fires) for one in sums]
            curves.append(_curve(f"{family.label} (L0 {l0:.0f})", rankings))
            said.append(_sentence(family, l0, sums, rankings))
        if curves:
            charts.append(
                Chart(
                    "bipolar",
                    f"{hook_name}: which directions use both poles",
                    "Rank by energy (1 = most)",
                    "Share that is bipolar",
                    curves,
                    log_x=True,
                    from_zero=True,
                )
            )
            verdicts.append(Verdict(f"{hook_name}: both poles", said))
    return charts, verdicts


def stretches(n: int) -> list[tuple[int, int]]:
    """Of a ranking of ``n``: 0 to 8, then each as long as all before it."""
    ends = [0, _FIRST_STRETCH]
    while ends[-1] < n:
        ends.append(2 * ends[-1])
    return [(start, min(stop, n)) for start, stop in itertools.pairwise(ends) if start < n]


def _curve(label: str, rankings: Sequence[Ranking]) -> Curve:
    """Mean and range over seeds of the share of each stretch that is bipolar."""
    n = min(len(one.is_bipolar) for one in rankings)
    spans = stretches(n)
    shares = np.array([[one.is_bipolar[start:stop].mean() for start, stop in spans] for one in rankings])
    middle = [float(np.sqrt((start + 1) * stop)) for start, stop in spans]
    notes = [f"ranks {start + 1} to {stop}" for start, stop in spans]
    low, high = (shares.min(axis=0).tolist(), shares.max(axis=0).tolist()) if len(rankings) > 1 else (None, None)
    return Curve(label, middle, shares.mean(axis=0).tolist(), low, high, notes)


def _sentence(family: Family, l0: float, sums: Sequence[LatentSums], rankings: Sequence[Ranking]) -> str:
    what = "latents" if family.is_signed else "directions (a mutual antipodal pair of latents is one)"
    tops = ", ".join(f"{_mean(one.is_bipolar[:top].mean() for one in rankings):.0%} of the top {top}" for top in _TOPS)
    every = _mean(one.is_bipolar.mean() for one in rankings)
    energy = _mean(one.energy[one.is_bipolar].sum() for one in rankings)
    said = (
        f"{family.label} at L0 {l0:.0f}: bipolar are {tops} and {every:.0%} of all live {what}; they hold {energy:.0%} of the "
        "reconstruction's energy"
    )
    if not family.is_signed:
        return f"{said}."
    negative = _mean(float(one.energy_negative.sum() / one.energy.sum().clamp_min(1e-300)) for one in sums)
    return f"{said}, and negative sides hold {negative:.0%} of it."


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
