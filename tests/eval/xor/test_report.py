"""What the report of an XOR study says, and how it looks in a browser."""

import numpy as np
import pandas as pd
import pytest

from eval.page.report import ReportFiles, StudyFacts, write_report
from eval.xor.report import xor_report
from eval.xor.verdicts import claims, quantile_table, sentences, verdict_table
from tests.eval.browser import needs_browser, opened, sorts_both_ways
from twolayer.xor.config import XORConfig

STAGES = [{"stage": "train", "seconds": 1.0, "peak_memory_bytes": 1}]
SECONDS = pd.DataFrame([{"trained": "one", "seconds": 1.5}])
FACTS = StudyFacts(
    "study <1>",
    "name: study\n",
    [("all", {"python": "3.11"})],
    ["saes/other"],
    [{"stage": "train", "seconds": 1.0, "peak_memory_bytes": 1}],
    SECONDS,
)


def descents(test_at_20: float = 1.0) -> pd.DataFrame:
    at = {0: 0.5, 1: 0.5, 10: 0.9, 20: test_at_20, 100: test_at_20}
    return pd.DataFrame(
        {
            "run_id": f"seed_{seed}",
            "learning_rate": 1e-12,
            "seed": seed,
            "step": step,
            "train_accuracy": float(step > 0),
            "test_accuracy": test + 0.01 * (seed - 1),
            "flipped_fit": float(step > 0),
            "own_feature_share": 0.5 + 0.5 * (step >= 10),
            "linear_slope": 1.0 if step == 1 else np.nan,
            "linear_r_squared": 1.0 if step == 1 else 0.4,
        }
        for seed in range(3)
        for step, test in at.items()
    )


def test_claims_of_the_theorem_are_judged_by_medians():
    found = claims(descents())
    assert len(found) == 7
    assert all(claim.holds for claim in found)
    failed = [claim for claim in claims(descents(test_at_20=0.9)) if not claim.holds]
    assert [claim.value for claim in failed] == [pytest.approx(0.9)]
    assert (
        sentences(verdict_table({1e-12: failed}))["learning rate 1e-12"][0]
        == "Does not hold: at step 20 the network generalises to clean test rows (median 0.900)."
    )


def test_quantiles_over_seeds():
    table = quantile_table(descents()).set_index("step")
    assert table.loc[10, ["test_accuracy_q20", "test_accuracy_median", "test_accuracy_q80"]].tolist() == pytest.approx(
        [0.894, 0.9, 0.906]
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> ReportFiles:
    config = XORConfig(n_features=2000, n_neurons=8)
    of_seed = {step: [[step / 20, 0.0]] * 4 + [[0.0, step / 20]] * 4 for step in (0, 1, 15)}
    cosines = {1e-12: {step: 3 * neurons for step, neurons in of_seed.items()}}
    return write_report(tmp_path_factory.mktemp("xor"), xor_report(descents(), cosines, config, FACTS))


def test_files(files):
    assert all(path.stat().st_size > 10_000 for path in files.pngs)
    assert "study &lt;1&gt;" in files.html.read_text(encoding="utf8")
    assert [path.name for path in files.csvs] == ["verdicts.csv", "quantiles.csv"]
    verdicts = pd.read_csv(files.csvs[0])
    assert verdicts["holds"].tolist() == [True] * 7
    assert sentences(verdicts) == sentences(verdict_table({1e-12: claims(descents())}))


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_xor_report_in_a_browser(files, width):
    with opened(files.html, width) as page:
        assert page.locator(".panel").count() == 5
        assert sorts_both_ways(page, "test_accuracy_median")
