"""SAEs that went wrong, and values at the ends of their axes."""

import pandas as pd

from eval.page.charts import Chart
from eval.saes.comparisons import compare_all, verdict_table
from eval.saes.families import families
from eval.saes.report import fronts, sae_report
from tests.eval.saes.test_report import provenance, table


def test_an_sae_that_diverged_is_said_and_decides_nothing():
    frame = table()
    before = verdict_table(compare_all(frame))
    wild = frame.iloc[[0]].assign(r_squared=-4e12, sparsity_coefficient=99.0, sae_id="wild")
    described = sae_report(pd.concat([frame, wild], ignore_index=True), provenance())
    pd.testing.assert_frame_equal(described.tables["verdicts.csv"], before)
    warned = described.sections[0].verdicts[0]
    assert warned.title.startswith("Diverged")
    assert warned.sentences[0] == "wild: R² -4e+12"
    for chart in described.sections[1].figures:
        assert isinstance(chart, Chart)
        assert all(abs(y) < 2 for curve in chart.curves for y in curve.y)


def test_dead_fractions_of_zero_stand_on_a_logarithmic_axis():
    charts = [chart for chart in fronts(families(table().assign(dead_fraction=0.0))) if chart.name == "dead_fraction"]
    assert charts
    for chart in charts:
        assert chart.log_y
        assert all(y > 0 for curve in chart.curves for y in curve.y)
