import math

import pytest
import torch

from eval.planted.metrics import recovery

AXES = torch.eye(4, 6)
ALL = torch.full((4,), 99)
NONE = torch.zeros(4)


def test_one_signed_latent_carries_a_pair():
    found = recovery(-AXES, (ALL, ALL), AXES, 3, 10)
    assert found == (1.0, 1.0, 1.0, 1.0)


def test_one_pole_is_half_of_a_pair():
    """A latent that is never negative recovers what lies along it, and nothing against it."""
    found = recovery(AXES, (ALL, NONE), AXES, 4, 10)
    assert found == (0.5, 0.5, 0.0, 1.0)


def test_a_one_sided_dictionary_needs_two_latents_for_a_pair():
    W_dec = torch.cat([AXES, -AXES])
    found = recovery(W_dec, (torch.full((8,), 99), torch.zeros(8)), AXES, 4, 10)
    assert found == (1.0, 1.0, 0.0, 2.0)


def test_poles_that_hardly_fire_count_for_nothing():
    assert recovery(AXES, (NONE + 9, NONE + 9), AXES, 4, 10).mean_max_cosine == 0
    assert recovery(AXES, (ALL, ALL), AXES, 4, 10).mean_max_cosine == 1


def test_no_pairs():
    found = recovery(AXES, (ALL, NONE), AXES, 0, 10)
    assert found[:2] == (1.0, 1.0)
    assert math.isnan(found.pairs_by_one_latent)
    assert math.isnan(found.latents_per_pair)


def test_a_cosine_by_hand():
    W_dec = torch.tensor([[0.6, 0.8, 0, 0, 0, 0]])
    found = recovery(W_dec, (torch.tensor([50]), torch.tensor([0])), AXES[:2], 1, 10)
    assert found.mean_max_cosine == pytest.approx((0.6 + 0.8 + 0) / 3)
    assert found.latents_per_pair == 0
