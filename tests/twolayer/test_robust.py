"""Robust programs: the objective is the exact worst case of the recovered network, over all corners of every ball."""

from itertools import product

import pytest
import torch

from tests.twolayer.common import LOSS_NAMES
from twolayer.attacks import fgsm, pgd
from twolayer.convex.patterns import sample_patterns
from twolayer.convex.program import ConvexProgram
from twolayer.data import synthetic_rows
from twolayer.losses import LOSSES
from twolayer.robust.admm import RobustADMM
from twolayer.robust.program import RobustProgram


def solved(loss, epsilon: float = 0.1) -> RobustADMM:
    generator = torch.Generator().manual_seed(0)
    classes = LOSSES[loss].is_classification
    rows = synthetic_rows("xor", 30, 2, noise=0.3, classes=classes, generator=generator)
    patterns = sample_patterns(rows.x, 40, generator)
    admm = RobustADMM(RobustProgram(rows.x, rows.y, patterns, beta=1.0, loss=loss, epsilon=epsilon))
    for _ in range(200):
        admm.step()
    return admm


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_objective_is_the_worst_case_over_corners(loss):
    admm = solved(loss)
    program, network = admm.program, admm.network()
    corners = torch.tensor(list(product((-0.1, 0.1), repeat=2)), dtype=torch.float64)
    losses = torch.stack(
        [
            torch.stack(
                [
                    program.loss.value(f, y)
                    for f, y in zip(network(program.x + corner)[:, None], program.y[:, None], strict=True)
                ]
            )
            for corner in corners
        ]
    )
    penalty = program.beta * admm.solution.norm(dim=2).sum()
    assert float(losses.amax(dim=0).sum() + penalty) == pytest.approx(admm.certificate.objective, rel=1e-9)
    assert admm.certificate.relative_gap < 0.05
    attacks = (
        fgsm(network, program.x, program.y, epsilon=0.1, loss=program.loss),
        pgd(network, program.x, program.y, epsilon=0.1, loss=program.loss, generator=torch.Generator().manual_seed(0)),
    )
    for attacked in attacks:
        assert float((attacked - program.x).abs().max()) <= 0.1 + 1e-12
        assert float(program.loss.value(network(attacked), program.y) + penalty) <= admm.certificate.objective * (
            1 + 1e-9
        )


def test_resume_is_exact():
    one, other = solved("hinge"), solved("hinge")
    other.load_state_dict(one.state_dict())
    one.step()
    other.step()
    assert torch.equal(one.solution, other.solution)


def test_negative_radius_is_named():
    with pytest.raises(ValueError, match=r"epsilon is -0.1; the radius of a perturbation is 0 or more"):
        solved("hinge", epsilon=-0.1)


def test_a_robust_program_has_a_certificate_of_its_own():
    """The dual of plain training would bound another program."""
    admm = solved("hinge")
    assert not isinstance(admm.program, ConvexProgram)
    assert not hasattr(admm.program, "dual_slopes")
    assert admm.certificate.lower_bound <= admm.certificate.objective
    assert admm.certificate.objective == pytest.approx(admm.program.objective(admm.solution))
