import itertools

import numpy as np
import pandas as pd
import pytest

from eval.saes.report import Provenance, ReportFiles, StudyFacts, write_report
from eval.saes.verdicts import compare_all, sentences, verdict_table
from tests.eval.browser import needs_browser, opened, sorts_both_ways

HOOKS = ("blocks.14.hook_mlp_out", "blocks.14.hook_resid_post")


def table(n_seeds: int = 3, gap: float = 0.05) -> pd.DataFrame:
    lambdas = ((2.5, 80.0), (5.0, 30.0), (10.0, 9.0))
    widths = (("gated", 2304, 0.0), ("sa_gated", 1152, gap))
    cells = itertools.product(HOOKS, widths, lambdas, range(n_seeds))
    rows = [
        {
            "sae_id": f"{hook_name}-{architecture}-{coefficient:g}-{seed}",
            "architecture": architecture, "d_in": 576, "d_sae": d_sae, "n_params": d_sae * 1155,
            "hook_name": hook_name, "seed": seed, "sparsity_coefficient": coefficient,
            "l0": l0 + seed, "r_squared": 0.3 + 0.1 * np.log(l0) + advantage + 0.001 * seed,
            "r_squared_all_rows": 0.5, "dead_fraction": 0.2 - advantage, "bipolar_fraction": 0.5,
            "polarity_balance": 0.2, "antipodal_fraction": 0.0, "shrinkage": 1.01, "n_tokens": 25_000,
            "n_outliers": 3, "tying": "full", "one_sided": False, "auxiliary_loss": True,
            "threshold_init": "calibrated", "n_dead_resets": 0, "n_steps": 300,
        }
        for hook_name, (architecture, d_sae, advantage), (coefficient, l0), seed in cells
    ]  # fmt: skip
    return pd.DataFrame(rows)


def provenance() -> Provenance:
    hook = {"d_in": 576, "norm_bound": 300.0, "mean_norm": 31.0, "n_outliers": 3, "storage_relative_error": 0.0}
    manifest = {
        "model": "smollm2-135m", "revision": "local", "model_dtype": "bfloat16", "model_hash": "0" * 64,
        "corpus": "python-docs", "n_documents": 449, "n_tokens": 250_000,
        "n_rows": {"train": 225_000, "held_out": 25_000}, "n_dropped": {"first_position": 1200, "special_tokens": 0},
        "hooks": dict.fromkeys(HOOKS, hook),
    }  # fmt: skip
    stages = [{"stage": "train", "seconds": 12.0, "peak_memory_bytes": 10**9}]
    facts = StudyFacts("study <1>", "name: study\n", {"python": "3.11"}, stages)
    return Provenance(facts, manifest, {"sae-x": "loss is nan at step 3"})


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> ReportFiles:
    return write_report(tmp_path_factory.mktemp("report"), table(), provenance())


def test_verdict_sentences():
    said = " ".join(sentences(compare_all(table())[0]))
    assert "SA-GSAE 1152 has 1,330,560 parameters, 0.50 times the 2,661,120 of Gated 2304." in said
    assert (
        "SA-GSAE 1152 strictly dominates Gated 2304 for L0 from 10.0 to 81.0: R² gap from +0.0500 to +0.0500." in said
    )
    assert "95 % bootstrap interval from +0.05" in said
    assert "At matched L0 = 64, R² is" in said
    assert "At matched L0 = 64, the dead fraction is 0.1500 against 0.2000 (-0.0500)." in said
    assert "its dead fraction is 0.75 times that of Gated 2304" in said


@pytest.mark.parametrize(
    ("gap", "n_seeds", "expected"),
    [
        (-0.05, 3, "Gated 2304 strictly dominates SA-GSAE 1152"),
        (0.05, 1, "There is one seed, so nothing is known of the spread"),
    ],
)
def test_other_verdicts(gap, n_seeds, expected):
    assert expected in " ".join(sentences(compare_all(table(n_seeds, gap))[0]))


def test_no_dead_latents_at_all():
    frame = table()
    frame["dead_fraction"] = 0.0
    said = " ".join(sentences(compare_all(frame)[0]))
    assert "the dead fraction is zero for both" in said
    assert "Neither has a dead latent over the sweep." in said


def test_fronts_without_overlap_and_without_l0_64():
    frame = table()
    low = frame[frame["architecture"] == "gated"].index
    frame.loc[low, "l0"] = frame.loc[low, "l0"] / 100
    said = " ".join(sentences(compare_all(frame)[0]))
    assert "share no range of L0" in said
    assert verdict_table(compare_all(frame))["gap_minimum"].tolist() == [None, None]


def test_files(report):
    assert all(path.stat().st_size > 10_000 for path in report.pngs)
    verdicts = pd.read_csv(report.csvs[1])
    assert verdicts["strictly_dominates"].tolist() == [True, True]
    page = report.html.read_text(encoding="utf8")
    assert "study &lt;1&gt;" in page
    assert "loss is nan at step 3" in page
    assert page.count("Plotly.newPlot(") == 4
    assert page.count("plotly.js v") == 1


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(report, width):
    with opened(report.html, width) as page:
        assert page.locator(".xtitle").all_text_contents() == ["L0 (latents per token)"] * 4
        assert {"R² on held-out tokens (1 = perfect)", "Dead fraction (share of latents)"} == set(
            page.locator(".ytitle").all_text_contents()
        )
        assert sorts_both_ways(page, "l0")
