"""The figures of a report: interactive ones (plotly) for the page, static ones (matplotlib) for a paper."""

from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from eval.saes.families import Family
from eval.saes.pareto import Array

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Okabe and Ito's palette: told apart in every common form of colour blindness; markers and dashes say it again.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
PLOTLY_MARKERS = ["circle", "square", "diamond", "triangle-up", "x", "cross", "star"]
PLOTLY_DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "solid", "dash"]
MATPLOTLIB_MARKERS = ["o", "s", "D", "^", "X", "P", "*"]
MATPLOTLIB_DASHES = ["-", "--", ":", "-.", (0, (8, 2)), "-", "--"]
_LOG_TICKS = [digit * 10.0**power for power in range(-2, 6) for digit in (1, 1.5, 2, 3, 5, 7)]
L0_LABEL = "L0 (latents per token)"


class Quantity(NamedTuple):
    """Something drawn against L0."""

    column: str
    short: str
    """For titles."""
    label: str
    """Axis title with unit."""


QUANTITIES = (
    Quantity("r_squared", "R²", "R² on held-out tokens (1 = perfect)"),
    Quantity("dead_fraction", "dead fraction", "Dead fraction (share of latents)"),
)


class Band(NamedTuple):
    """A family's curve: seed means by ascending L0, with the range over seeds."""

    l0: Array
    mean: Array
    low: Array
    high: Array
    coefficients: Array


def band(family: Family, column: str) -> Band:
    """Seed mean and range of a column at each lambda."""
    grouped = family.rows.groupby("sparsity_coefficient")
    frame = grouped.agg(l0=("l0", "mean"), mean=(column, "mean"), low=(column, "min"), high=(column, "max"))
    frame = frame.query("l0 > 0").sort_values(by="l0")
    return Band(
        *(frame[name].to_numpy(dtype=np.float64) for name in ("l0", "mean", "low", "high")),
        coefficients=frame.index.to_numpy(dtype=np.float64),
    )


def interactive_figure(families: list[Family], quantity: Quantity) -> "go.Figure":
    """One panel: a hookpoint's families, a quantity against L0 on a logarithmic axis."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, family in enumerate(families):
        curve = band(family, quantity.column)
        colour = COLOURS[number % len(COLOURS)]
        if len(set(family.rows["seed"])) > 1:
            figure.add_scatter(
                x=np.concatenate([curve.l0, curve.l0[::-1]]),
                y=np.concatenate([curve.high, curve.low[::-1]]),
                fill="toself", fillcolor=colour, opacity=0.18, line={"width": 0}, hoverinfo="skip", showlegend=False,
                legendgroup=family.label, mode="lines",
            )  # fmt: skip
        figure.add_scatter(
            x=curve.l0, y=curve.mean, name=family.label, legendgroup=family.label, mode="lines+markers",
            line={"color": colour, "dash": PLOTLY_DASHES[number % len(PLOTLY_DASHES)], "width": 2},
            marker={"symbol": PLOTLY_MARKERS[number % len(PLOTLY_MARKERS)], "size": 9},
            customdata=curve.coefficients,
            hovertemplate="L0 %{x:.1f}<br>" + quantity.column + " %{y:.4f}<br>lambda %{customdata:g}",
        )  # fmt: skip
    x = {"type": "log", "title": {"text": L0_LABEL}, "tickvals": _LOG_TICKS}
    page_layout(figure, x=x, y={"title": {"text": quantity.label}})
    if quantity.column == "dead_fraction":
        figure.update_yaxes(rangemode="tozero")
    return figure


def page_layout(figure: "go.Figure", *, x: dict[str, Any], y: dict[str, Any]) -> None:
    """The look of every panel of a report; ``x`` and ``y`` are plotly axis settings."""
    axis = {"gridcolor": "#e3e6ea", "linecolor": "#8a9099", "automargin": True, "zeroline": False}
    figure.update_layout(
        template="none", height=380, margin={"l": 64, "r": 16, "t": 12, "b": 56}, hovermode="closest",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#1d2430"},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        xaxis={**axis, **x}, yaxis={**axis, **y},
    )  # fmt: skip


def write_static_figure(handle: BinaryIO, by_hook: dict[str, list[Family]], quantity: Quantity) -> None:
    """One PNG with a panel per hookpoint."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure = Figure(figsize=(5.2 * len(by_hook), 4.2), layout="constrained")
    axes = figure.subplots(1, len(by_hook), squeeze=False)[0]
    for axis, (hook_name, families) in zip(axes, by_hook.items(), strict=True):
        for number, family in enumerate(families):
            curve = band(family, quantity.column)
            colour = COLOURS[number % len(COLOURS)]
            axis.fill_between(curve.l0, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
            axis.plot(
                curve.l0, curve.mean, color=colour, label=family.label, marker=MATPLOTLIB_MARKERS[number % 7],
                linestyle=MATPLOTLIB_DASHES[number % 7],
            )  # fmt: skip
        axis.set(xscale="log", xlabel=L0_LABEL, ylabel=quantity.label, title=hook_name)
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(color="#e3e6ea")
        axis.legend(fontsize="small", frameon=False)
    figure.savefig(handle, format="png", dpi=150)
