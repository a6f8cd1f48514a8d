import io
import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from eval.page.report import ReportFiles, StudyFacts, write_report
from eval.saes.census import LatentSums
from eval.saes.comparisons import compare_all, verdict_table
from eval.saes.families import families, labels
from eval.saes.report import Provenance, sae_report
from eval.saes.verdicts import concentration, sentences
from hookpoints.anatomy import Place, Term
from hookpoints.config import SPLITS, HarvestConfig
from hookpoints.contents import HarvestContents, ModelContents, row_settings
from hookpoints.extents import Extent
from hookpoints.manifest import CaptureProof, HarvestNames, HookEntry, Manifest, ShardEntry
from hookpoints.packing import Packing
from hookpoints.records import Dropped
from hookpoints.sites import HookpointConfig
from saes.architectures import Gated, SignAwareGated
from saes.config import LearnerConfig
from tests.eval.browser import needs_browser, opened, sorts_both_ways

HOOKS = ("blocks.14.hook_mlp_out", "blocks.14.hook_resid_post")


def table(n_seeds: int = 3, gap: float = 0.05) -> pd.DataFrame:
    lambdas = ((2.5, 80.0), (5.0, 30.0), (10.0, 9.0))
    widths = (("gated", 2304, 0.0), ("sa_gated", 1152, gap))
    cells = itertools.product(HOOKS, widths, lambdas, range(n_seeds))
    rows = [
        {
            "sae_id": f"{hook_name}-{architecture}-{coefficient:g}-{seed}",
            "architecture": architecture,
            "d_in": 576,
            "d_sae": d_sae,
            "n_params": d_sae * 1155,
            "hook_name": hook_name,
            "seed": seed,
            "sparsity_coefficient": coefficient,
            "l0": l0 + seed,
            "r_squared": 0.3 + 0.1 * np.log(l0) + advantage + 0.001 * seed * (1 + (architecture == "gated")),
            "r_squared_all_rows": 0.5,
            "r_squared_without_top_1_percent": 0.4,
            "top_1_percent_share_of_sst": 0.05,
            "dead_fraction": 0.2 - advantage,
            "bipolar_fraction": 0.5,
            "polarity_balance": 0.2,
            "antipodal_fraction": 0.0,
            "shrinkage": 1.01,
            "n_tokens": 25_000,
            "n_outliers": 3,
            "tying": "full",
            "one_sided": False,
            "auxiliary_loss": True,
            "threshold_init": "calibrated",
            "n_dead_resets": 0,
            "n_steps": 300,
            "n_training_rows": 225_000,
            "family": f"{architecture}-{d_sae}",
            "label": f"{'SA-GSAE' if architecture == 'sa_gated' else 'Gated'} {d_sae}",
            "is_signed": architecture == "sa_gated",
        }
        for hook_name, (architecture, d_sae, advantage), (coefficient, l0), seed in cells
    ]
    return pd.DataFrame(rows)


def latents(sae_id: str) -> LatentSums:
    """Every other latent of a signed SAE is bipolar."""
    n = 200
    energy = torch.linspace(2, 1, n, dtype=torch.float64)
    positive = torch.full((n,), 20.0, dtype=torch.float64)
    is_signed = sae_id.split("-")[1] == "sa_gated"
    negative = positive * (torch.arange(n) % 2 == 0) * is_signed
    nobody = torch.full((n,), -1)
    return LatentSums(
        positive, negative, positive, negative, energy, energy * (negative > 0), nobody, torch.zeros_like(energy)
    )


SECONDS = pd.DataFrame([{"trained": "one", "seconds": 1.5}])


def provenance() -> Provenance:
    hook = HookEntry(
        d_in=576,
        norm_bound=300.0,
        norm_gap=(90.0, 1000.0),
        norm_histogram=[(28, 100_000), (29, 140_000), (30, 9_997), (60, 3)],
        largest_kept_norm=89.0,
        n_outliers=3,
        mean_norm=31.0,
        mean_squared_norm=1000.0,
        mean_squared_centred_norm=900.0,
        storage_relative_error=0.0,
        mean=[0.0] * 576,
        held_out_mean=[0.0] * 576,
    )
    packing = Packing(is_packed=True, reason="proved", error=0.0, tolerance=1e-4, rounding=0.0)
    place = Place(terms=[Term(module="mlp", end="output")])
    dropped = Dropped(first_position=1200, special_tokens=0)
    shards = [
        ShardEntry(split=split, n_rows=n, n_dropped=dropped, file_sha256={}, bytes={}, n_outliers={})
        for split, n in zip(SPLITS, (225_000, 25_000), strict=True)
    ]
    model = ModelContents(weights="0" * 64, config={}, dtype="bfloat16", tokenizer="1" * 64)
    settings = HarvestConfig(hookpoints=[HookpointConfig(site="mlp_out")], n_tokens=250_000)
    extent = Extent(
        n_tokens=250_000,
        n_contexts={"train": 900, "held_out": 100},
        n_documents=449,
        corpus_hash="2" * 64,
        n_shards=2,
        notes=["3 rows without 'text' were skipped (the first: a.jsonl, line 3)"],
    )
    manifest = Manifest(
        names=HarvestNames(model="smollm2-135m", revision="local", n_layers=30, corpus="python-docs"),
        contents=HarvestContents(model=model, harvest=row_settings(settings, [1])),
        capture=CaptureProof(places=dict.fromkeys(HOOKS, place), packing=packing),
        extents=[extent],
        shards=shards,
        hooks={name: [hook] for name in HOOKS},
        environments=[{"python": "3.11"}],
    )
    stages = [{"stage": "train", "seconds": 12.0, "peak_memory_bytes": 10**9}]
    facts = StudyFacts("study <1>", "name: study\n", [("all", {"python": "3.11"})], ["saes/other"], stages, SECONDS)
    return Provenance(facts, manifest.at(HOOKS, 0), {"sae-x": "loss is nan at step 3"}, {}, latents, 10)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> ReportFiles:
    return write_report(tmp_path_factory.mktemp("report"), sae_report(table(), provenance()))


def said_of(frame: pd.DataFrame) -> str:
    """Of the first comparison, as the report says it and as `verdicts.csv` read back says it."""
    verdicts = verdict_table(compare_all(frame))
    read_back = pd.read_csv(io.StringIO(verdicts.to_csv(index=False)))
    assert sentences(read_back) == sentences(verdicts)
    return " ".join(next(iter(sentences(verdicts).values())))


def test_verdict_sentences():
    said = said_of(table())
    assert "SA-GSAE 1152 has 1,330,560 parameters, 0.50 times the 2,661,120 of Gated 2304." in said
    assert (
        "SA-GSAE 1152 dominates the mean frontier of Gated 2304 for L0 from 10.0 to 81.0: R² gap from +0.0490 to +0.0490."
        in said
    )
    assert "Over seeds, the smallest gap has a 95 % interval from +0.0465 to +0.0515" in said
    assert "At matched L0 = 64, R² is" in said
    assert "the dead fraction is 0.1500 against 0.2000 (-0.0500; no interval: all seeds have the same value)." in said
    assert "its dead fraction is 0.75 times that of Gated 2304" in said


@pytest.mark.parametrize(
    ("gap", "n_seeds", "expected"),
    [
        (-0.05, 3, "Gated 2304 dominates the mean frontier of SA-GSAE 1152"),
        (0.05, 1, "The smallest gap has no interval: there is one seed, so nothing is known of the spread"),
    ],
)
def test_other_verdicts(gap, n_seeds, expected):
    assert expected in said_of(table(n_seeds, gap))


def with_l0(low: float, high: float) -> pd.DataFrame:
    """Both families swept over one range of L0."""
    frame = table(n_seeds=1)
    l0 = {2.5: high, 5.0: (low * high) ** 0.5, 10.0: low}
    frame["l0"] = [l0[coefficient] for coefficient in frame["sparsity_coefficient"]]
    return frame


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.5, 7.0, "This says little: below L0 of 8"),
        (5.0, 40.0, "Below L0 of 8 this says little"),
        (20.0, 35.0, "share less than a factor of 2 in L0"),
        (10.0, 40.0, None),
    ],
)
def test_a_verdict_says_where_it_says_little(low, high, expected):
    said = said_of(with_l0(low, high))
    assert "dominates the mean frontier" in said
    assert ("says little" in said) == (expected is not None)
    assert (expected or "") in said


def test_r_squared_that_a_few_rows_decide_is_said():
    frame = table()
    assert concentration(frame) == {}
    of_hook = frame["hook_name"] == HOOKS[1]
    frame.loc[of_hook, "top_1_percent_share_of_sst"] = 0.78
    frame.loc[of_hook, "r_squared"] = 0.95
    frame.loc[of_hook, "r_squared_without_top_1_percent"] = 0.76
    said = concentration(frame)
    assert list(said) == [f"{HOOKS[1]}: a few rows decide R²"]
    assert "1 % of the held-out rows hold 78%" in next(iter(said.values()))[0]
    assert "0.950 with them, 0.760 without" in next(iter(said.values()))[0]
    verdicts = sae_report(frame, provenance()).sections[0].verdicts
    assert "a few rows decide" in verdicts[0].title


def test_no_dead_latents_at_all():
    frame = table()
    frame["dead_fraction"] = 0.0
    said = said_of(frame)
    assert "the dead fraction is zero for both" in said
    assert "Neither has a dead latent over the sweep." in said


def test_fronts_without_overlap_and_without_l0_64():
    frame = table()
    low = frame[frame["architecture"] == "gated"].index
    frame.loc[low, "l0"] = frame.loc[low, "l0"] / 100
    said = said_of(frame)
    assert "share no range of L0" in said
    assert verdict_table(compare_all(frame))["gap_minimum"].tolist() == [None, None]


def test_default_comparisons_are_signed_with_unsigned():
    found = compare_all(table())
    assert [(c.hook_name, c.a.label, c.b.label) for c in found] == [
        (hook_name, "SA-GSAE 1152", "Gated 2304") for hook_name in HOOKS
    ]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"d_sae": 2304}, {"architecture": "sa_gated"}, [("Gated 2304", "SA-GSAE 1152")] * 2),
        ({"tying": "full"}, {"d_sae": 2304}, [("SA-GSAE 1152", "Gated 2304")] * 2),
        ({"architecture": "gated"}, {"architecture": "gated"}, []),
    ],
)
def test_comparisons_that_a_study_names(a, b, expected):
    assert [(c.a.label, c.b.label) for c in compare_all(table(), [(a, b)])] == expected


def test_families_are_grouped_by_hookpoint_in_order():
    frame = table().sample(frac=1, random_state=0)
    order = list(frame["hook_name"].unique())
    assert [family.hook_name for family in families(frame)] == [order[0]] * 2 + [order[1]] * 2


def test_a_study_without_a_pair_says_so(tmp_path):
    frame = table().query("architecture == 'gated'")
    files = write_report(tmp_path, sae_report(frame, provenance()))
    assert "holds no pair of families to compare" in files.html.read_text(encoding="utf8")
    assert files.csvs[0].read_text() == "\n"


def test_labels_say_what_a_study_varies_and_what_is_not_usual():
    usual, no_resets = LearnerConfig(), LearnerConfig(dead_reset=False)
    members = [(Gated(8, 64), usual), (Gated(8, 32), LearnerConfig(threshold_init="constant"))]
    assert labels(members) == ["Gated 64", "Gated 32, constant init"]
    signed = [(SignAwareGated(8, 16), usual), (SignAwareGated(8, 16, "none"), LearnerConfig(auxiliary_loss=False))]
    assert labels([*members, *signed]) == [
        "Gated 64",
        "Gated 32, constant init",
        "SA-GSAE 16, tying full",
        "SA-GSAE 16, tying none, no auxiliary loss",
    ]
    one_sided = SignAwareGated(8, 16, one_sided=True)
    assert labels([signed[0], (one_sided, no_resets)]) == ["SA-GSAE 16", "SA-GSAE 16, one-sided, no dead reset"]
    assert labels([(Gated(8, 64), LearnerConfig(target_l0=32.0))]) == ["Gated 64, target L0 32"]


def test_files(report):
    assert all(path.stat().st_size > 10_000 for path in report.pngs)
    verdicts = pd.read_csv(report.csvs[0])
    assert verdicts["dominates_mean_front"].tolist() == [True, True]
    page = report.html.read_text(encoding="utf8")
    assert "study &lt;1&gt;" in page
    assert "loss is nan at step 3" in page
    assert page.count("Plotly.newPlot(") == 8
    assert page.count("plotly.js v") == 1


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(report, width):
    with opened(report.html, width) as page:
        expected = [*["L0 (latents per token)"] * 4, *["Rank by energy (1 = most)"] * 2, *["||x||"] * 2]
        assert page.locator(".xtitle").all_text_contents() == expected
        assert {
            "R² on held-out tokens (1 = perfect)",
            "Dead fraction (share of latents)",
            "Share that is bipolar",
            "Share of rows",
        } == set(page.locator(".ytitle").all_text_contents())
        assert sorts_both_ways(page, "l0")
