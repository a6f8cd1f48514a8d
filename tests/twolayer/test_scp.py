"""The sampled convex program: its bound, its optimum, and its convergence to the exact program."""

import pytest
import torch
from scipy.optimize import minimize

from tests.twolayer.common import LOSS_NAMES, instance, solved
from twolayer.convex.patterns import enumerate_patterns
from twolayer.convex.program import ConvexProgram
from twolayer.convex.scp import SampledProgram, n_samples_for, sample_directions
from twolayer.network import network_objective


def sampled(program: ConvexProgram, loss, n_samples: int, n_steps: int = 40) -> SampledProgram:
    directions = sample_directions(
        n_samples, program.x.shape[1], torch.Generator().manual_seed(1), dtype=program.x.dtype
    )
    scp = SampledProgram(program.x, program.y, directions, beta=program.beta, loss=loss)
    for _ in range(n_steps):
        scp.step()
    return scp


def test_bound_is_the_smaller_of_both():
    """By hand: n 9, violation 0.1: 10 / (0.05 x 0.1) - 1 = 1999 and 20 (10 + log 20) = 259.9."""
    assert n_samples_for(9, violation=0.1, confidence=0.95) == 260
    assert n_samples_for(1, violation=0.5, confidence=0.5) == 7
    with pytest.raises(ValueError, match="violation is 0; it must lie between 0 and 1"):
        n_samples_for(9, violation=0, confidence=0.95)


def test_bound_holds_on_fresh_directions():
    """At most the promised share of new neurons stretches the dual constraint."""
    program = instance("squared", n=12, d=3)
    scp = sampled(program, "squared", n_samples_for(12, violation=0.1, confidence=0.95))
    r = program.y - scp.network()(program.x)
    fresh = sample_directions(4000, 3, torch.Generator().manual_seed(9), dtype=r.dtype)
    stretched = ((program.x @ fresh.T).clamp_min(0).T @ r).abs()
    assert float((stretched > program.beta * (1 + 1e-4)).double().mean()) <= 0.1


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_optimum_is_that_of_a_general_solver(loss):
    program = instance(loss, n=12, d=3)
    scp = sampled(program, loss, 15)
    assert scp.certificate.relative_gap < 1e-6
    phi = (program.x @ scp.directions.T).clamp_min(0).numpy()
    n_samples = phi.shape[1]

    def value(parts):
        f = torch.from_numpy(phi @ (parts[:n_samples] - parts[n_samples:]))
        return float(program.loss.value(f, program.y)) + program.beta * parts.sum()

    found = minimize(value, [0.1] * (2 * n_samples), bounds=[(0, None)] * (2 * n_samples), options={"maxfun": 10**6})
    assert scp.certificate.objective <= found.fun * (1 + 1e-7)
    assert scp.certificate.lower_bound <= found.fun * (1 + 1e-7)


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_converges_to_the_exact_program_from_above(loss):
    program = instance(loss, n=20, d=2)
    exact = ConvexProgram(program.x, program.y, enumerate_patterns(program.x), beta=program.beta, loss=loss)
    optimum = solved(exact).certificate
    excess = [sampled(program, loss, n).certificate.objective / optimum.objective - 1 for n in (10, 30, 100)]
    assert excess[0] > excess[1] > excess[2] > -1e-6
    assert excess[2] < 5e-2


def test_network_scores_what_the_program_does():
    program = instance("hinge")
    scp = sampled(program, "hinge", 50)
    objective = network_objective(scp.network(), program.x, program.y, beta=program.beta, loss=program.loss)
    assert float(objective) == pytest.approx(scp.certificate.objective, rel=1e-9)


def test_resume_is_exact():
    program = instance("logistic")
    one, other = sampled(program, "logistic", 30, 5), sampled(program, "logistic", 30, 0)
    other.load_state_dict(one.state_dict())
    one.step()
    other.step()
    assert torch.equal(one.solution, other.solution)
    assert one.certificate == other.certificate
