"""Intervals must hold what they say: studies drawn from a known truth, again and again."""

import numpy as np
import pytest

from eval.saes import draws as drawing
from eval.saes.documents import GroupSums
from eval.saes.draws import draws, smallest_gaps
from eval.saes.intervals import Interval, compared
from eval.saes.pareto import Sweep

L0 = np.array([120.0, 70.0, 35.0, 14.0])
N_STUDIES = 400


def study(generator, n_seeds: int, n_documents: int, seed_noise: float, gap: float) -> tuple[Sweep, Sweep]:
    """Two families whose R² differs by ``gap`` for an endless number of seeds and documents.

    Documents are of unequal length, some are harder than others for every SAE, and each favours one family by its own amount.
    """
    length = generator.lognormal(5.0, 0.8, n_documents)
    hard = generator.lognormal(0.0, 0.3, n_documents)
    hard /= np.exp(0.3**2 / 2)
    common = generator.normal(0, seed_noise, (n_seeds, 1, 1))

    def family(advantage: float) -> Sweep:
        own = generator.normal(0, seed_noise, (n_seeds, 1, 1)) + 0.3 * common
        unexplained = (0.9 - 0.12 * np.log(L0))[None, :, None] - advantage + own
        favour = generator.normal(1, 0.03, (1, 1, n_documents))
        sst = np.broadcast_to(length, (n_seeds, len(L0), n_documents))
        fires = L0[None, :, None] * length * generator.lognormal(-0.005, 0.1, (1, 1, n_documents))
        fires = fires * np.exp(generator.normal(0, 0.02, (n_seeds, 1, 1)))
        sse = unexplained * sst * hard * favour
        n_rows, zeros = sst, np.zeros_like(sst)
        l0 = fires.sum(-1) / n_rows.sum(-1)
        r_squared = 1 - sse.sum(-1) / sst.sum(-1)
        sums = GroupSums(n_rows, fires, sse, sst, zeros, zeros)
        seeds = tuple(range(n_seeds))
        return Sweep(l0, r_squared, np.zeros_like(l0), 100, seeds=seeds, documents=sums)

    return family(gap), family(0.0)


def at_64(a: Sweep, b: Sweep) -> Interval | str:
    of_a, of_b = draws(a, "r_squared"), draws(b, "r_squared")
    assert of_a is not None
    assert of_b is not None
    at_a, at_b = (one.curves.at(np.full((len(one.curves.log_l0), 1), np.log(64.0))) for one in (of_a, of_b))
    return compared(of_a, of_b, lambda i, j: at_a[i] - at_b[j])[1][0]


@pytest.mark.parametrize(("n_documents", "seed_noise"), [(40, 0.004), (200, 0.01)])
def test_95_percent_intervals_hold_the_truth_in_95_percent_of_studies(monkeypatch, n_documents, seed_noise):
    monkeypatch.setattr(drawing, "N_RESAMPLED", 300)
    drawing._weights.cache_clear()
    generator, truth = np.random.default_rng(7), 0.01
    held = 0
    for _ in range(N_STUDIES):
        found = at_64(*study(generator, 3, n_documents, seed_noise, truth))
        assert isinstance(found, Interval)
        held += found.low <= truth <= found.high
    drawing._weights.cache_clear()
    print(n_documents, seed_noise, held / N_STUDIES)
    assert 0.93 <= held / N_STUDIES <= 0.985


def test_percentiles_of_three_seeds_hold_far_less():
    """What intervals over seeds alone, by the bootstrap's percentiles, would have held."""
    generator, held = np.random.default_rng(7), 0
    resampled = np.random.default_rng(0).integers(3, size=(1000, 3))
    for _ in range(N_STUDIES):
        a, b = study(generator, 3, 200, 0.004, 0.01)
        gap = (a.r_squared - b.r_squared)[:, 1]
        low, high = np.percentile(gap[resampled].mean(axis=1), (2.5, 97.5))
        held += low <= 0.01 <= high
    print(held / N_STUDIES)
    assert held / N_STUDIES < 0.8


def test_seeds_that_two_families_share_are_compared_one_by_one():
    """What both have in common cancels; with other numbers it does not."""
    generator = np.random.default_rng(0)
    l0, common = np.tile(L0, (4, 1)), generator.normal(0, 0.05, (4, 1))
    own = generator.normal(0, 0.001, (4, 1))
    dead = np.zeros_like(l0)
    r_squared = 0.2 + 0.1 * np.log(L0)
    a = Sweep(l0, r_squared + common + own, dead, 100, seeds=(0, 1, 2, 3))
    paired = at_64(a, Sweep(l0, r_squared + common, dead, 100, seeds=(0, 1, 2, 3)))
    other = at_64(a, Sweep(l0, r_squared + common, dead, 100, seeds=(4, 5, 6, 7)))
    assert isinstance(paired, Interval)
    assert isinstance(other, Interval)
    assert paired.standard_error == pytest.approx(own.std(ddof=1) / 2)
    assert other.standard_error > 10 * paired.standard_error


@pytest.mark.parametrize(
    ("n_seeds", "n_documents", "expected"),
    [(1, 50, "there is one seed"), (3, 4, "the held-out text has 4 documents, and an interval needs 10")],
)
def test_too_little_for_an_interval(n_seeds, n_documents, expected):
    found = at_64(*study(np.random.default_rng(0), n_seeds, n_documents, 0.01, 0.0))
    assert isinstance(found, str)
    assert expected in found


def test_no_interval_where_a_curve_ends():
    """Half of all resampled texts move the last point to the other side of 64."""
    a, b = study(np.random.default_rng(0), 3, 50, 0.01, 0.0)
    assert a.documents is not None
    factor = 64.2 / a.l0[:, 0].mean()
    fires = a.documents.n_fires * np.where(np.arange(4) == 0, factor, 0.5)[None, :, None]
    l0 = fires.sum(-1) / a.documents.n_rows.sum(-1)
    short = Sweep(l0, a.r_squared, a.dead_fraction, 100, seeds=a.seeds, documents=a.documents._replace(n_fires=fires))
    found = at_64(short, b)
    assert isinstance(found, str)
    assert "so near the end of a sweep" in found


def test_smallest_gaps_have_intervals_too():
    a, b = study(np.random.default_rng(3), 3, 100, 0.002, 0.05)
    of_a, of_b = draws(a, "r_squared"), draws(b, "r_squared")
    assert of_a is not None
    assert of_b is not None
    estimate, (interval,) = compared(of_a, of_b, lambda i, j: smallest_gaps(of_a.curves.only(i), of_b.curves.only(j)))
    assert isinstance(interval, Interval)
    assert interval.low < estimate[0] < interval.high
    assert 0 < interval.standard_error < 0.02
