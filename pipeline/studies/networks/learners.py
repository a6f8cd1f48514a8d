"""Methods of a network study -> learners."""

from typing import Protocol

import torch
from torch import Tensor

from core.trainer import Learner
from pipeline.studies.networks.methods import (
    ConvexMethod,
    DescentMethod,
    LinearMethod,
    Method,
    RobustMethod,
    SampledMethod,
)
from pipeline.studies.networks.study import NetworkSpec, NetworkTrainConfig
from twolayer.certificate import Certificate
from twolayer.config import LossName
from twolayer.convex.admm import ADMM
from twolayer.convex.linear_step import BlockStep, ExactStep, LinearStep
from twolayer.convex.patterns import Patterns, enumerate_patterns, patterns_of, sample_patterns
from twolayer.convex.program import ConvexProgram
from twolayer.convex.scp import SampledProgram, n_samples_for, sample_directions
from twolayer.data import Rows
from twolayer.descent import NetworkDescent
from twolayer.linear import LinearProbe
from twolayer.network import Network
from twolayer.robust.admm import RobustADMM
from twolayer.robust.program import RobustProgram


class NetworkLearner(Learner, Protocol):
    """A learner that ends in a network."""

    @property
    def certificate(self) -> Certificate | None:
        """Of the best point so far; None where a method proves nothing."""
        ...

    @property
    def objective(self) -> float:
        """Of the best point so far."""
        ...

    def network(self) -> Network:
        """Of the best point so far."""
        ...


Shared = tuple[Patterns, LinearStep | None] | None
"""Patterns and factors that do not depend on beta, which the networks of one path share; None where each has its own."""


def share(method: Method, rows: Rows, train: NetworkTrainConfig, seed: int) -> Shared:
    """What the networks of one method and seed share along the path of betas."""
    generator = torch.Generator().manual_seed(seed)
    match method:
        case ConvexMethod(patterns="enumerated"):
            patterns = enumerate_patterns(rows.x)
        case ConvexMethod(patterns="sampled", n_patterns=n) | RobustMethod(n_patterns=n):
            patterns = sample_patterns(rows.x, n, generator)
        case _:
            return None
    if not isinstance(method, ConvexMethod):
        return patterns, None
    program = ConvexProgram(rows.x, rows.y, patterns, beta=train.betas[0], loss=train.loss)
    return patterns, _linear_step(method, program, seed)


def _linear_step(method: ConvexMethod, program: ConvexProgram, seed: int) -> LinearStep:
    return ExactStep(program) if method.solver == "admm" else BlockStep(program, seed=seed)


def _descent_patterns(spec: NetworkSpec, method: ConvexMethod, rows: Rows, loss: LossName) -> Patterns:
    """Of the neurons that gradient descent at the same beta ends with."""
    settings = DescentMethod(method="gradient_descent", n_neurons=method.n_patterns, n_restarts=1)
    descent = _descent(settings, spec, rows, loss)
    for _ in range(settings.n_steps):
        descent.step()
    return patterns_of(rows.x, descent.network().hidden)


def make_network_learner(
    spec: NetworkSpec, rows: Rows, train: NetworkTrainConfig, shared: Shared, start: Tensor | None
) -> NetworkLearner:
    """The learner of one network at step 0; convex programs start from ``start``, the point of the beta before."""
    x, y = rows
    match spec.method:
        case ConvexMethod() as method:
            return _convex(method, spec, rows, train, shared, start)
        case RobustMethod(epsilon=epsilon, n_patterns=n):
            patterns = shared[0] if shared else sample_patterns(x, n, torch.Generator().manual_seed(spec.seed))
            return RobustADMM(RobustProgram(x, y, patterns, beta=spec.beta, loss=train.loss, epsilon=epsilon))
        case SampledMethod(n_samples=n_samples, violation=violation, confidence=confidence):
            n_samples = n_samples or n_samples_for(len(y), violation=violation, confidence=confidence)
            generator = torch.Generator().manual_seed(spec.seed)
            directions = sample_directions(n_samples, x.shape[1], generator, dtype=x.dtype).to(x.device)
            return SampledProgram(x, y, directions, beta=spec.beta, loss=train.loss)
        case DescentMethod() as method:
            return _descent(method, spec, rows, train.loss)
        case LinearMethod():
            return LinearProbe(rows, beta=spec.beta, loss=train.loss, seed=spec.seed)


def _convex(
    method: ConvexMethod, spec: NetworkSpec, rows: Rows, train: NetworkTrainConfig, shared: Shared, start: Tensor | None
) -> ADMM:
    if shared is None:  # patterns of a descent at this beta: the point of the beta before has others
        patterns, linear_step, start = _descent_patterns(spec, method, rows, train.loss), None, None
    else:
        patterns, linear_step = shared
    program = ConvexProgram(rows.x, rows.y, patterns, beta=spec.beta, loss=train.loss)
    linear_step = linear_step or _linear_step(method, program, spec.seed)
    return ADMM(program, tolerance=train.tolerance, linear_step=linear_step, start=start)


def _descent(method: DescentMethod, spec: NetworkSpec, rows: Rows, loss: LossName) -> NetworkDescent:
    return NetworkDescent(
        rows.x,
        rows.y,
        beta=spec.beta,
        loss=loss,
        n_neurons=method.n_neurons,
        n_restarts=method.n_restarts,
        n_steps=method.n_steps,
        learning_rate=method.learning_rate,
        seed=spec.seed,
    )
