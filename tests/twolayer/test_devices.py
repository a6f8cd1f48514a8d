"""Solvers work on the device of their data: nothing is made on another one."""

from typing import NamedTuple

import pytest
import torch

from tests.twolayer.common import LOSS_NAMES, instance
from twolayer.convex.admm import ADMM
from twolayer.convex.linear_step import BlockStep, ExactStep
from twolayer.convex.patterns import Patterns
from twolayer.convex.program import ConvexProgram
from twolayer.convex.scp import SampledProgram, sample_directions
from twolayer.robust.admm import RobustADMM
from twolayer.robust.program import RobustProgram


class Data(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor
    patterns: Patterns
    directions: torch.Tensor


def data(loss, device: str, n: int, n_patterns: int) -> Data:
    program = instance(loss, n=n, n_patterns=n_patterns)
    directions = sample_directions(12, 5, torch.Generator().manual_seed(0), dtype=torch.float64)
    patterns = Patterns(program.active.bool().to(device), program.directions.to(device))
    return Data(program.x.to(device), program.y.to(device), patterns, directions.to(device))


def learners(loss, wide: Data, tall: Data):
    """Of every kind; both ways of the exact linear step."""
    x, y, patterns, directions = tall
    first, program = (ConvexProgram(one.x, one.y, one.patterns, beta=0.1, loss=loss) for one in (wide, tall))
    yield ADMM(first, linear_step=ExactStep(first))
    yield ADMM(program, linear_step=ExactStep(program))
    yield ADMM(program, linear_step=BlockStep(program, seed=0), start=program.directions.expand(2, -1, -1))
    yield RobustADMM(RobustProgram(x, y, patterns, beta=0.1, loss=loss, epsilon=1e-3))
    yield SampledProgram(x, y, directions, beta=0.1, loss=loss)


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_nothing_is_made_on_the_default_device(loss):
    """The default device holds no data here, so that a tensor made on it cannot meet one of the data's."""
    wide, tall = data(loss, "cpu", 40, 20), data(loss, "cpu", 70, 8)
    with torch.device("meta"):
        for learner in learners(loss, wide, tall):
            for _ in range(56):
                learner.step()
            learner.load_state_dict(learner.state_dict())
            learner.step()
            assert learner.network().hidden.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_cuda_finds_the_same_optimum(loss):
    made = [learners(loss, data(loss, where, 40, 20), data(loss, where, 70, 8)) for where in ("cpu", "cuda")]
    for here, there in zip(*made, strict=True):
        for _ in range(100):
            here.step()
            there.step()
        assert there.certificate.objective == pytest.approx(here.certificate.objective, rel=1e-3)
        assert there.network().hidden.device.type == "cuda"
