import itertools
import math

import pytest
import torch

from saes.bank import Bank
from tests.saes.common import VARIANTS
from tests.saes.test_learner import learner, sparse_signed_data


def members() -> dict:
    cells = itertools.product(enumerate(VARIANTS), (0.1, 1.0))
    return {
        f"{index}-{coefficient}": learner(variant, coefficient=coefficient) for (index, variant), coefficient in cells
    }


def test_each_member_learns_what_it_would_alone_bit_for_bit():
    bank, alone = Bank(members()), members()
    for step in range(12):
        batch = sparse_signed_data(300, seed=step)
        bank.step(batch)
        for one in alone.values():
            one.step(batch)
    for name, one in alone.items():
        for key, value in one.sae.state_dict().items():
            assert torch.equal(bank.members[name].sae.state_dict()[key], value), (name, key)


def test_state_dict_continues_bit_for_bit():
    whole, first, second = Bank(members()), Bank(members()), Bank(members())
    for step in range(8):
        whole.step(sparse_signed_data(300, seed=step))
        if step < 5:
            first.step(sparse_signed_data(300, seed=step))
    second.load_state_dict(first.state_dict())
    for step in range(5, 8):
        second.step(sparse_signed_data(300, seed=step))
    for name, member in whole.members.items():
        assert torch.equal(second.members[name].sae.W_enc, member.sae.W_enc)


def test_a_member_that_diverges_is_stopped_and_the_others_continue():
    bank, alone = Bank(members()), members()
    names = list(bank.members)
    for step in range(6):
        if step == 3:
            with torch.no_grad():
                bank.members[names[0]].sae.W_dec.fill_(math.nan)
        batch = sparse_signed_data(300, seed=step)
        metrics = bank.step(batch)
        assert math.isfinite(float(metrics["loss"]))
        alone[names[1]].step(batch)
    assert list(bank.stopped) == [names[0]]
    assert "loss is nan at step 4; last finite metrics: loss " in bank.stopped[names[0]]
    assert bank.active == names[1:]
    assert torch.equal(bank.members[names[1]].sae.W_dec, alone[names[1]].sae.W_dec)


def test_no_member_left_is_a_non_finite_loss():
    bank = Bank({"only": learner()})
    assert math.isnan(float(bank.step(torch.full((8, 16), math.nan))["loss"]))


def test_every_member_is_observed():
    seen: list[str] = []
    bank = Bank(members(), observe=seen.append)
    bank.step(sparse_signed_data(64))
    assert seen == list(bank.members)


def test_members_of_different_streams():
    other = learner()
    other.scale *= 2
    with pytest.raises(ValueError, match="share one scale"):
        Bank({"a": learner(), "b": other})
