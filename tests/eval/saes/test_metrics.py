import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.saes.metrics import FiringCounts, Shrinkage, SquaredErrors, antipodal_fraction, evaluate, r_squared
from tests.hookpoints.test_harvest import HOOK
from tests.hookpoints.test_harvest import run as run_harvest
from tests.saes.common import VARIANTS, random_sae


def data(seed: int, n_rows: int = 50, d_in: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_rows, d_in, generator=generator, dtype=torch.float64) + 5
    return x, x + 0.3 * torch.randn(n_rows, d_in, generator=generator, dtype=torch.float64)


@given(st.integers(0, 10_000))
def test_r_squared_fixed_points(seed):
    x, _ = data(seed)
    assert r_squared(x, x) == 1.0
    assert r_squared(x, x.mean(dim=0).expand_as(x)) == pytest.approx(0.0, abs=1e-12)


@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_r_squared_is_invariant_under_scaling_both(seed, scale):
    x, x_hat = data(seed)
    assert r_squared(scale * x, scale * x_hat) == pytest.approx(r_squared(x, x_hat), rel=1e-9)


@given(st.integers(0, 10_000), st.floats(0.1, 10))
def test_r_squared_falls_when_the_reconstruction_is_shifted(seed, shift):
    x, _ = data(seed)
    assert r_squared(x, x + shift) < 1.0
    assert r_squared(x, x + 2 * shift) < r_squared(x, x + shift)


def test_r_squared_by_hand():
    x = torch.tensor([[0.0], [2.0], [4.0]])
    assert r_squared(x, torch.tensor([[1.0], [2.0], [4.0]])) == pytest.approx(1 - 1 / 8)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.lists(st.integers(2, 20), min_size=1, max_size=6))
def test_streaming_does_not_depend_on_the_pieces(seed, sizes):
    x, x_hat = data(seed, sum(sizes))
    errors = SquaredErrors()
    for piece, piece_hat in zip(x.split(sizes), x_hat.split(sizes), strict=True):
        errors.update(piece, piece_hat)
    assert errors.r_squared == pytest.approx(r_squared(x, x_hat), rel=1e-10)


def test_streaming_is_exact_far_from_zero():
    x, x_hat = data(0)
    assert r_squared(x + 1e6, x_hat + 1e6) == pytest.approx(r_squared(x, x_hat), rel=1e-6)


def test_no_rows_and_no_variance():
    assert SquaredErrors().r_squared != SquaredErrors().r_squared
    assert r_squared(torch.ones(3, 2), torch.ones(3, 2)) != 1.0


def test_firing_counts_by_hand():
    counts = FiringCounts(4)
    counts.update(torch.tensor([[1.0, -1.0, 0.0, 2.0], [-3.0, -1.0, 0.0, 0.0]]))
    counts.update(torch.tensor([[1.0, -1.0, 0.0, 0.0]]))
    assert counts.l0 == pytest.approx(7 / 3)
    assert counts.dead_fraction == 0.25
    assert counts.bipolar_fraction(1) == pytest.approx(1 / 3)
    assert counts.bipolar_fraction(2) == 0.0
    assert counts.polarity_balance().tolist() == pytest.approx([1 / 3, 0.0, 0.0])


def test_antipodal_fraction_by_hand():
    W_dec = torch.tensor([[1.0, 0.0], [-2.0, 0.1], [0.0, 1.0], [0.0, -1.0]])
    assert antipodal_fraction(W_dec, torch.tensor([True, True, True, True])) == 1.0
    assert antipodal_fraction(W_dec, torch.tensor([True, True, True, False])) == pytest.approx(2 / 3)
    assert antipodal_fraction(W_dec, torch.zeros(4, dtype=torch.bool)) == 0.0


def test_shrinkage_of_a_half_sized_reconstruction_is_two():
    x, _ = data(0)
    centre = x.mean(dim=0)
    shrinkage = Shrinkage(centre)
    shrinkage.update(x, centre + 0.5 * (x - centre))
    shrinkage.update(x[:1], centre[None])
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
    assert 0 < got.n_outliers == int((~kept).sum())
    assert got.n_tokens == int(kept.sum())
    assert got.r_squared == pytest.approx(r_squared(x[kept], x_hat[kept]))
    assert got.r_squared_all_rows == pytest.approx(r_squared(x, x_hat))
    assert got.l0 == pytest.approx(float((latents[kept] != 0).double().sum(dim=1).mean()))
    assert got.dead_fraction == pytest.approx(float((latents[kept] == 0).all(dim=0).double().mean()))
    both = ((latents[kept] > 0).sum(dim=0) >= 3) & ((latents[kept] < 0).sum(dim=0) >= 3)
    assert got.bipolar_fraction == pytest.approx(float(both.sum() / (latents[kept] != 0).any(dim=0).sum()))


def test_sae_of_another_width(tmp_path, corpus_file):
    dataset = run_harvest(tmp_path, corpus_file)
    with pytest.raises(ValueError, match=r"d_in 12 and blocks.1.hook_mlp_out has width 32: it was trained on another"):
        evaluate(random_sae(VARIANTS[0]), dataset, HOOK)
