"""The norms of a hook's rows, drawn with the bound of the outlier filter."""

from math import ceil, log10, nan

from eval.page.charts import Chart, Curve
from hookpoints.manifest import HookEntry, View
from hookpoints.outliers import BINS_PER_DECADE

NORMS_NOTE = (
    "Norms of all rows harvested, in bins a twentieth of a decade wide: those left of the bound are kept, those right of it are "
    "left out of training and of R²."
)


def norm_charts(view: View) -> list[Chart]:
    """A panel for each hookpoint."""
    return [
        Chart(
            "norms",
            f"{hook_name}: norms of rows",
            "||x||",
            "Share of rows",
            _curves(hook),
            log_x=True,
            log_y=True,
            markers=False,
            x_range=_range(hook),
        )
        for hook_name, hook in view.hooks.items()
    ]


def _range(hook: HookEntry) -> tuple[float, float] | None:
    """From a bin below the smallest norm to a bin above the largest and the bound."""
    bins = [number for number, _ in hook.norm_histogram]
    if not bins:
        return None
    bound = hook.norm_bound or 0.0
    return 10 ** ((min(bins) - 1) / BINS_PER_DECADE), max(10 ** ((max(bins) + 2) / BINS_PER_DECADE), 1.1 * bound)


def _curves(hook: HookEntry) -> list[Curve]:
    counts = dict(hook.norm_histogram)
    total = max(1, sum(counts.values()))
    floor = 0.5 / total
    if hook.norm_bound is None:
        return [_outline("kept", counts, total, floor)]
    first_cut = ceil(log10(hook.norm_bound) * BINS_PER_DECADE)
    kept = {number: count for number, count in counts.items() if number < first_cut}
    cut = {number: count for number, count in counts.items() if number >= first_cut}
    bound = Curve(
        f"bound {hook.norm_bound:.4g}",
        [hook.norm_bound, hook.norm_bound],
        [floor, max(counts.values(), default=1) / total],
    )
    parts = [("kept", kept), ("left out", cut)]
    return [*(_outline(label, part, total, floor) for label, part in parts if part), bound]


def _outline(label: str, counts: dict[int, int], total: int, floor: float) -> Curve:
    """Bars of neighbouring bins as one line from the floor and back; a gap between bars breaks it."""
    x: list[float] = []
    y: list[float] = []

    def point(number: int, value: float) -> None:
        x.append(10 ** (number / BINS_PER_DECADE))
        y.append(value)

    for number in sorted(counts):
        if number - 1 not in counts:
            point(number, floor)
        point(number, counts[number] / total)
        point(number + 1, counts[number] / total)
        if number + 1 not in counts:
            point(number + 1, floor)
            point(number + 1, nan)
    return Curve(label, x, y)
