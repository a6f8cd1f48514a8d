"""SAEs that went wrong, and values at the ends of their axes."""

import pandas as pd
import torch

from eval.page.charts import Chart
from eval.saes.census import LatentSums
from eval.saes.comparisons import compare_all, verdict_table
from eval.saes.families import families
from eval.saes.report import fronts, sae_report
from tests.eval.saes.test_report import latents, provenance, table


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


def test_seeds_without_a_lambda_in_common_are_reported():
    """Every seed of a family lost another SAE, so nothing of it can be averaged."""
    frame = table()
    kept = frame.query("architecture == 'gated' or sparsity_coefficient == 2.5 * 2 ** seed")
    described = sae_report(kept, provenance())
    assert [value is None for value in described.tables["verdicts.csv"]["l0_low"]] == [True, True]
    assert not described.tables["matched.csv"]["value_a"].notna().to_numpy().any()


def test_an_sae_that_never_fires_has_no_ranking():
    """The lambda nearest to 64 has a dead seed: the census is of the others, and of no NaN."""
    frame = table()
    frame.loc[(frame["sparsity_coefficient"] == 2.5) & (frame["seed"] == 1), "l0"] = 0.0
    nothing = torch.zeros(200, dtype=torch.float64)
    nobody = torch.full((200,), -1)

    def latents_of(sae_id: str) -> LatentSums:
        of_dead = LatentSums(nothing, nothing, nothing, nothing, nothing, nothing, nobody, nothing)
        return of_dead if sae_id.endswith("2.5-1") else latents(sae_id)

    described = sae_report(frame, provenance()._replace(latents=latents_of))
    said = [one for section in described.sections if section.title == "Both poles" for one in section.verdicts]
    assert said
    assert not any("nan" in sentence for verdict in said for sentence in verdict.sentences)


def test_dead_fractions_of_zero_stand_on_a_logarithmic_axis():
    charts = [chart for chart in fronts(families(table().assign(dead_fraction=0.0))) if chart.name == "dead_fraction"]
    assert charts
    for chart in charts:
        assert chart.log_y
        assert all(y > 0 for curve in chart.curves for y in curve.y)
