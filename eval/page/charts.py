"""Curves, bands and histograms: one description each, drawn by plotly for the page and by matplotlib for a paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eval.figures import COLOURS, MATPLOTLIB_DASHES, MATPLOTLIB_MARKERS, PLOTLY_DASHES, PLOTLY_MARKERS, page_layout
from core.files import write_atomically

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Curve(NamedTuple):
    """A line, with a band around it where there is one."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


class Chart(NamedTuple):
    """A panel of curves."""

    name: str
    """File name of the static figure."""
    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    log_x: bool = False
    log_y: bool = False
    markers: bool = True


class Histogram(NamedTuple):
    """Overlaid distributions on [-1, 1]."""

    name: str
    title: str
    x_label: str
    samples: Sequence[tuple[str, Sequence[float]]]


def interactive(chart: Chart | Histogram) -> "go.Figure":
    """For the page."""
    import plotly.graph_objects as go

    figure = go.Figure()
    if isinstance(chart, Histogram):
        for number, (label, values) in enumerate(chart.samples):
            figure.add_histogram(
                x=list(values), name=label, opacity=0.55, marker_color=COLOURS[number % 7],
                xbins={"start": -1.0, "end": 1.0, "size": 0.05}, histnorm="probability",
            )  # fmt: skip
        page_layout(
            figure, x={"title": {"text": chart.x_label}, "range": [-1, 1]}, y={"title": {"text": "Share of neurons"}}
        )
        figure.update_layout(barmode="overlay")
        return figure
    for number, curve in enumerate(chart.curves):
        colour = COLOURS[number % 7]
        if curve.low is not None and curve.high is not None:
            figure.add_scatter(
                x=[*curve.x, *reversed(curve.x)], y=[*curve.high, *reversed(curve.low)], fill="toself", fillcolor=colour,
                opacity=0.18, line={"width": 0}, hoverinfo="skip", showlegend=False, legendgroup=curve.label, mode="lines",
            )  # fmt: skip
        figure.add_scatter(
            x=list(curve.x), y=list(curve.y), name=curve.label, legendgroup=curve.label,
            mode="lines+markers" if chart.markers else "lines",
            line={"color": colour, "dash": PLOTLY_DASHES[number % 7], "width": 2},
            marker={"symbol": PLOTLY_MARKERS[number % 7], "size": 8},
        )  # fmt: skip
    page_layout(
        figure,
        x={"title": {"text": chart.x_label}, **({"type": "log"} if chart.log_x else {})},
        y={"title": {"text": chart.y_label}, **({"type": "log", "exponentformat": "power"} if chart.log_y else {})},
    )
    return figure


def write_static(folder: Path, charts: Sequence[Chart | Histogram]) -> list[Path]:
    """One PNG a chart into ``folder``; returns their paths."""
    from matplotlib.figure import Figure

    paths = []
    for chart in charts:
        figure = Figure(figsize=(5.2, 4.2), layout="constrained")
        axis = figure.subplots()
        if isinstance(chart, Histogram):
            for number, (label, values) in enumerate(chart.samples):
                weights = [1 / len(values)] * len(values)
                axis.hist(
                    values, bins=40, range=(-1, 1), weights=weights, alpha=0.55, label=label, color=COLOURS[number % 7]
                )
            axis.set(xlabel=chart.x_label, ylabel="Share of neurons", title=chart.title)
        else:
            for number, curve in enumerate(chart.curves):
                style = {"color": COLOURS[number % 7], "linestyle": MATPLOTLIB_DASHES[number % 7], "label": curve.label}
                marker = MATPLOTLIB_MARKERS[number % 7] if chart.markers else None
                axis.plot(curve.x, curve.y, marker=marker, markersize=4, **style)  # pyright: ignore[reportArgumentType]
                if curve.low is not None and curve.high is not None:
                    axis.fill_between(
                        curve.x, curve.low, curve.high, color=COLOURS[number % 7], alpha=0.18, linewidth=0
                    )
            axis.set(xlabel=chart.x_label, ylabel=chart.y_label, title=chart.title)
            axis.set(xscale="log" if chart.log_x else "linear", yscale="log" if chart.log_y else "linear")
        axis.grid(color="#e3e6ea")
        axis.legend(fontsize="small", frameon=False)
        path = folder / f"{chart.name}.png"
        write_atomically(path, lambda temporary, figure=figure: figure.savefig(temporary, format="png", dpi=150))
        paths.append(path)
    return paths
