import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.saes import pareto
from eval.saes.draws import draws, smallest_gaps
from eval.saes.pareto import Curve, Sweep, dead_fraction_ratio, gap, mean_front, pareto_front


def sweep(l0, r_squared, dead=None, d_sae=100) -> Sweep:
    l0, r_squared = np.atleast_2d(np.asarray(l0, float)), np.atleast_2d(np.asarray(r_squared, float))
    dead = np.zeros_like(l0) if dead is None else np.atleast_2d(np.asarray(dead, float))
    return Sweep(l0, r_squared, dead, d_sae)


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(0, 1)), min_size=1, max_size=20))
def test_front_is_what_no_other_point_beats(points):
    l0, r_squared = (np.array(values) for values in zip(*points, strict=True))
    front = set(pareto_front(l0, r_squared).tolist())
    for i in range(len(points)):
        beaten = any(
            (l0[j] <= l0[i] and r_squared[j] > r_squared[i]) or (l0[j] < l0[i] and r_squared[j] >= r_squared[i])
            for j in range(len(points))
        )
        is_copy = any(
            j in front and l0[j] == l0[i] and r_squared[j] == r_squared[i] for j in range(len(points)) if j != i
        )
        assert (i in front) == (not beaten and not is_copy) or (is_copy and not beaten)


def test_interpolation_is_linear_in_log_l0_and_never_extrapolates():
    curve = Curve(np.array([10.0, 1000.0]), np.array([0.0, 1.0]))
    assert curve.at(100.0) == pytest.approx(0.5)
    assert np.isnan(curve.at(9.9))
    assert np.isnan(curve.at(1001.0))


def test_dominance_by_hand():
    a = sweep([10, 100], [0.6, 0.8])
    b = sweep([10, 100], [0.5, 0.75])
    verdict = gap(a, b)
    assert verdict is not None
    assert (verdict.l0_low, verdict.l0_high) == (10, 100)
    assert verdict.minimum == pytest.approx(0.05)
    assert verdict.maximum == pytest.approx(0.1)
    assert verdict.share_positive == 1.0
    assert verdict.dominates


def test_dominance_is_over_the_overlap_only():
    verdict = gap(sweep([1, 50], [0.0, 0.9]), sweep([20, 400], [0.1, 0.2]))
    assert verdict is not None
    assert (verdict.l0_low, verdict.l0_high) == (20, 50)


def test_crossing_fronts():
    verdict = gap(sweep([10, 1000], [0.4, 0.8]), sweep([10, 1000], [0.5, 0.7]))
    assert verdict is not None
    assert not verdict.dominates
    assert verdict.share_positive == pytest.approx(0.5, abs=0.01)


def test_no_overlap():
    assert gap(sweep([1, 2], [0.1, 0.2]), sweep([3, 4], [0.1, 0.2])) is None
    assert gap(sweep([0, 0], [0.1, 0.2]), sweep([3, 4], [0.1, 0.2])) is None


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 6))
def test_curves_all_at_once_are_curves_one_by_one(seed, n_seeds, n_coefficients):
    """Dead SAEs (L0 of 0), points that others beat and fronts that share no range among them."""
    generator = np.random.default_rng(seed)

    def drawn() -> Sweep:
        l0 = np.exp(generator.normal(2, 1, (n_seeds, n_coefficients)).round(1))
        l0[:, generator.random(n_coefficients) < 0.1] = 0
        return sweep(l0, generator.random((n_seeds, n_coefficients)).round(2))

    def without(of: Sweep, left_out: int) -> Sweep:
        kept = np.arange(n_seeds) != left_out
        return Sweep(of.l0[kept], of.r_squared[kept], of.dead_fraction[kept], of.d_sae)

    a, b = drawn(), drawn()
    of_a, of_b = draws(a, "r_squared"), draws(b, "r_squared")
    assert of_a is not None
    assert of_b is not None
    at_once = smallest_gaps(of_a.curves, of_b.curves)
    one_by_one = [(a, b), *((without(a, seed), without(b, seed)) for seed in range(n_seeds))]
    assert len(at_once) == len(one_by_one)
    for found, (one_a, one_b) in zip(at_once, one_by_one, strict=True):
        overlap = pareto._overlap(mean_front(one_a), mean_front(one_b))
        expected = np.nan if overlap is None else pareto._along(one_a, one_b, overlap).min()
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)


def test_mean_front_is_of_the_seed_means():
    front = mean_front(sweep([[10, 30], [20, 50]], [[0.4, 0.6], [0.6, 0.8]]))
    assert front.l0.tolist() == [15, 40]
    assert front.value.tolist() == pytest.approx([0.5, 0.7])


def test_dead_fraction_ratio_counts_none_as_half_a_latent():
    a = sweep([10, 100], [0.1, 0.2], dead=[0.0, 0.0], d_sae=50)
    b = sweep([10, 100], [0.1, 0.2], dead=[0.4, 0.1], d_sae=100)
    assert dead_fraction_ratio(a, b) == pytest.approx(((0.01 / 0.4) * (0.01 / 0.1)) ** 0.5)


def test_no_ratio_of_nothing():
    a = sweep([10, 100], [0.1, 0.2], d_sae=50)
    assert dead_fraction_ratio(a, sweep([10, 100], [0.1, 0.2], d_sae=100)) is None
