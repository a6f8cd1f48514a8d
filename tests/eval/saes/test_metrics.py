from types import SimpleNamespace
from typing import NamedTuple, cast

import pytest
import torch

from eval.saes.batch import Batch, Rows
from eval.saes.census import LatentCount, LatentSums, latent_columns, ranking
from eval.saes.metrics import L0, Shrinkage, evaluate
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
    document = torch.zeros(len(latents), dtype=torch.int64)
    return Batch(Rows(x, latents, x_hat), nothing if is_outlier is None else is_outlier, document, spread)


def count(W_dec: torch.Tensor, *pieces: torch.Tensor) -> LatentSums:
    """Of latents, a batch each."""
    counted = LatentCount(W_dec)
    for piece in pieces:
        counted.update(batch(torch.zeros(len(piece), 1), piece, torch.zeros(len(piece), 1)))
    return counted.sums


def test_firings_by_hand():
    pieces = [torch.tensor([[1.0, -1.0, 0.0, 2.0], [-3.0, -1.0, 0.0, 0.0]]), torch.tensor([[1.0, -1.0, 0.0, 0.0]])]
    sums = count(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [0.6, 0.8]]), *pieces)
    assert sums.n_positive.tolist() == [2, 0, 0, 1]
    assert sums.n_negative.tolist() == [1, 3, 0, 0]
    assert sums.size_positive.tolist() == [2, 0, 0, 2]
    assert sums.size_negative.tolist() == [3, 3, 0, 0]
    assert sums.energy_positive.tolist() == pytest.approx([2, 0, 0, 4])
    assert sums.energy_negative.tolist() == pytest.approx([9, 12, 0, 0])
    columns = latent_columns(sums, 1)
    assert columns["dead_fraction"] == 0.25
    assert columns["bipolar_fraction"] == pytest.approx(1 / 3)
    assert columns["polarity_balance"] == pytest.approx(1 / 9)
    assert columns["bipolar_energy_share"] == pytest.approx(11 / 27)
    assert columns["negative_energy_share"] == pytest.approx(21 / 27)
    assert latent_columns(sums, 2)["bipolar_fraction"] == 0
    ranked = ranking(sums, 1)
    assert ranked.is_bipolar.tolist() == [False, True, False]
    assert ranked.energy.tolist() == pytest.approx([12 / 27, 11 / 27, 4 / 27])


def test_outliers_count_nowhere_but_where_they_are_asked_for():
    is_outlier = torch.tensor([False, True])
    one = batch(torch.zeros(2, 1), torch.tensor([[1.0], [1.0]]), torch.zeros(2, 1), is_outlier)
    l0, latents = L0("l0"), LatentCount(torch.ones(1, 1))
    l0.update(one)
    latents.update(one)
    assert l0.n_rows == 1
    assert float(latents.sums.n_fires.sum()) == 1
    assert len(one.everything.x) == 2


@pytest.mark.parametrize(
    ("is_live", "expected"),
    [([1, 1, 1, 1], 1.0), ([1, 1, 1, 0], pytest.approx(2 / 3)), ([0, 0, 0, 0], 0.0), ([1, 0, 0, 0], 0.0)],
)
def test_antipodal_fraction_by_hand(is_live, expected):
    W_dec = torch.tensor([[1.0, 0.0], [-2.0, 0.1], [0.0, 1.0], [0.0, -1.0]])
    sums = count(W_dec, torch.tensor([is_live], dtype=torch.float32))
    assert latent_columns(sums, 1)["antipodal_fraction"] == expected


def test_antipodal_pairs_of_a_one_sided_sae_are_one_direction():
    """Latent 4 is antipodal to 0 too, but 0 has a nearer one."""
    W_dec = torch.tensor([[1.0, 0.0], [-1.0, 0.01], [0.0, 1.0], [0.1, -1.0], [-0.95, 0.3]])
    sums = count(W_dec, torch.tensor([[3.0, 0.0, 1.0, 0.0, 0.5], [0.0, 2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0]]))
    assert sums.pairs().tolist() == [[0, 1], [2, 3]]
    ranked = ranking(sums, 1)
    assert ranked.is_bipolar.tolist() == [True, True, False]
    assert ranked.energy.tolist() == pytest.approx([v / 15.26 for v in (13.0, 2.01, 0.25 * 0.9925)], rel=1e-3)
    assert not ranking(sums, 2).is_bipolar.any()


def test_sums_by_document_add_up_to_the_metrics(tmp_path, corpus_file):
    dataset = run_harvest(tmp_path, corpus_file, norm_outlier_factor=1.2)
    sae = random_sae(VARIANTS[1], d_in=32, d_sae=40, threshold=2.0, dtype=torch.float32)
    got = evaluate(sae, dataset, HOOK, min_fires=3)
    sums, columns = got.documents, got.columns
    assert 1 < len(sums.document) == columns["n_documents"]
    assert float(sums.n_rows.sum()) == columns["n_tokens"]
    assert float(sums.n_fires.sum() / sums.n_rows.sum()) == pytest.approx(columns["l0"])
    assert 1 - float(sums.sse.sum() / sums.sst.sum()) == pytest.approx(columns["r_squared"])
    assert sums.document.tolist() == sorted(set(sums.document.tolist()))
    shards = [(dataset.read(HOOK, i), dataset.read_tokens(i)["document"]) for i in dataset.shards("held_out")]
    of_last = [rows.activations[~rows.is_outlier & (document == int(sums.document[-1]))] for rows, document in shards]
    x = torch.cat(of_last)
    assert len(x) == sums.n_rows[-1]
    with torch.no_grad():
        assert float((x - sae(x)).square().sum()) == pytest.approx(float(sums.sse[-1]), rel=1e-5)


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
    got = evaluate(sae, dataset, HOOK, min_fires=3).columns
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

    def read_tokens(self, _index):
        return {"document": torch.zeros(len(self.rows), dtype=torch.int32)}

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
