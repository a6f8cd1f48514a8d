from types import SimpleNamespace
from typing import NamedTuple, cast

import pytest
import torch

from eval.saes.metrics import (
    L0,
    AntipodalFraction,
    Batch,
    BipolarFraction,
    DeadFraction,
    PolarityBalance,
    Rows,
    Shrinkage,
    evaluate,
    measure,
)
from eval.saes.spread import Spread, held_out_spread
from hookpoints.shards import ActivationDataset
from hookpoints.shards import Rows as StoredRows
from tests.eval.test_metrics import r_squared
from tests.hookpoints.test_harvest import HOOK
from tests.hookpoints.test_harvest import run as run_harvest
from tests.saes.common import VARIANTS, random_sae


def batch(x, latents, x_hat, is_outlier=None) -> Batch:
    nothing = torch.zeros(len(latents), dtype=torch.bool)
    spread = Spread(torch.zeros(x.shape[1], dtype=torch.float64), float("inf"), 0.0)
    return Batch(Rows(x, latents, x_hat), nothing if is_outlier is None else is_outlier, spread)


def of_latents(*pieces: torch.Tensor):
    return [batch(torch.zeros(len(piece), 1), piece, torch.zeros(len(piece), 1)) for piece in pieces]


def test_firings_by_hand():
    metrics = [
        L0("l0"),
        DeadFraction("dead"),
        BipolarFraction("once", min_fires=1),
        BipolarFraction("twice", min_fires=2),
    ]
    balance = PolarityBalance("balance")
    pieces = [torch.tensor([[1.0, -1.0, 0.0, 2.0], [-3.0, -1.0, 0.0, 0.0]]), torch.tensor([[1.0, -1.0, 0.0, 0.0]])]
    for one in of_latents(*pieces):
        measure([*metrics, balance], one)
    assert [metric.value for metric in metrics] == pytest.approx([7 / 3, 0.25, 1 / 3, 0.0])
    assert balance.of_live_latents.tolist() == pytest.approx([1 / 3, 0.0, 0.0])
    assert balance.value == pytest.approx(1 / 9)


def test_outliers_count_nowhere_but_where_they_are_asked_for():
    is_outlier = torch.tensor([False, True])
    one = batch(torch.zeros(2, 1), torch.tensor([[1.0], [1.0]]), torch.zeros(2, 1), is_outlier)
    l0 = L0("l0")
    l0.update(one)
    assert l0.n_rows == 1
    assert len(one.everything.x) == 2


@pytest.mark.parametrize(
    ("is_live", "expected"), [([1, 1, 1, 1], 1.0), ([1, 1, 1, 0], pytest.approx(2 / 3)), ([0, 0, 0, 0], 0.0)]
)
def test_antipodal_fraction_by_hand(is_live, expected):
    metric = AntipodalFraction("antipodal", torch.tensor([[1.0, 0.0], [-2.0, 0.1], [0.0, 1.0], [0.0, -1.0]]))
    measure([metric], of_latents(torch.tensor([is_live], dtype=torch.float32))[0])
    assert metric.value == expected


def test_shrinkage_of_a_half_sized_reconstruction_is_two():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 5
    centre = x.mean(dim=0)
    shrinkage = Shrinkage("shrinkage", centre)
    for rows, x_hat in ((x, centre + 0.5 * (x - centre)), (x[:1], centre[None])):
        shrinkage.update(batch(rows, torch.zeros(len(rows), 2), x_hat))
    assert shrinkage.value == pytest.approx(2.0)


def test_evaluate_equals_the_formulas_on_all_rows_at_once(tmp_path, corpus_file):
    dataset = run_harvest(tmp_path, corpus_file, norm_outlier_factor=1.2)
    sae = random_sae(VARIANTS[1], d_in=32, d_sae=40, threshold=2.0, dtype=torch.float32)
    got = evaluate(sae, dataset, HOOK, min_fires=3)
    rows = [dataset.read(HOOK, index) for index in dataset.shards("held_out")]
    x = torch.cat([r.activations for r in rows])
    kept = ~torch.cat([r.is_outlier for r in rows])
    with torch.no_grad():
        latents, x_hat = sae.encode(x), sae(x)
    assert 0 < got["n_outliers"] == int((~kept).sum())
    assert got["n_tokens"] == int(kept.sum())
    assert got["r_squared"] == pytest.approx(r_squared(x[kept], x_hat[kept]))
    assert got["r_squared_all_rows"] == pytest.approx(r_squared(x, x_hat))
    distance = (x[kept].double() - x[kept].double().mean(dim=0)).square().sum(dim=1)
    top = distance >= distance.sort(descending=True).values[-(-len(distance) // 100) - 1]
    assert int(top.sum()) == -(-int(kept.sum()) // 100)
    assert got["top_1_percent_share_of_sst"] == pytest.approx(float(distance[top].sum() / distance.sum()))
    assert got["r_squared_without_top_1_percent"] == pytest.approx(r_squared(x[kept][~top], x_hat[kept][~top]))
    assert got["l0"] == pytest.approx(float((latents[kept] != 0).double().sum(dim=1).mean()))
    assert got["dead_fraction"] == pytest.approx(float((latents[kept] == 0).all(dim=0).double().mean()))
    both = ((latents[kept] > 0).sum(dim=0) >= 3) & ((latents[kept] < 0).sum(dim=0) >= 3)
    assert got["bipolar_fraction"] == pytest.approx(float(both.sum() / (latents[kept] != 0).any(dim=0).sum()))


def test_sae_of_another_width(tmp_path, corpus_file):
    dataset = run_harvest(tmp_path, corpus_file)
    with pytest.raises(ValueError, match=r"d_in 12 and blocks.1.hook_mlp_out has width 32: it was trained on another"):
        evaluate(random_sae(VARIANTS[0]), dataset, HOOK)


class _Held(NamedTuple):
    """As much of an `ActivationDataset` as the spread of held-out rows reads."""

    rows: torch.Tensor

    @property
    def view(self):
        mean = self.rows.double().mean(dim=0).tolist()
        return SimpleNamespace(hooks={HOOK: SimpleNamespace(held_out_mean=mean)})

    def shards(self, _split):
        return [0]

    def read(self, _hook_name, _index):
        return StoredRows(self.rows, torch.zeros(len(self.rows), dtype=torch.bool))

    def __hash__(self):
        return id(self.rows)


def test_the_rows_that_decide_r_squared_are_found():
    """Five rows of a thousand, forty times as far from the mean as the others, hold most of SST."""
    rows = torch.randn(1000, 32, generator=torch.Generator().manual_seed(0))
    rows[::200] *= 40
    spread = held_out_spread(cast(ActivationDataset, _Held(rows)), HOOK)
    expected = (rows.double() - rows.double().mean(dim=0)).square().sum(dim=1)
    assert spread.top_share == pytest.approx(float(expected.topk(10).values.sum() / expected.sum()))
    assert spread.top_share > 0.8
    assert spread.is_top(rows).nonzero()[:, 0].tolist() == expected.topk(10).indices.sort().values.tolist()
