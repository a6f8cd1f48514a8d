"""Methods of a network study -> learners."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pipeline.studies.networks.study import (
    ConvexMethod,
    DescentMethod,
    LinearMethod,
    Method,
    NetworkSpec,
    NetworkTrainConfig,
    RobustMethod,
    SampledMethod,
)
from core.trainer import Learner
from twolayer.convex.admm import ADMM
from twolayer.data import Rows
from twolayer.descent import NetworkDescent
from twolayer.convex.linear_step import BlockStep, ExactStep, LinearStep
from twolayer.config import LossName
from twolayer.losses import LOSSES
from twolayer.network import Network, network_objective
from twolayer.convex.patterns import Patterns, enumerate_patterns, patterns_of, sample_patterns
from twolayer.certificate import Certificate, certificate_of
from twolayer.convex.program import ConvexProgram
from twolayer.robust.admm import RobustADMM
from twolayer.robust.program import RobustProgram
from twolayer.convex.scp import SampledProgram, n_samples_for, sample_directions

_SCP_STEPS = 100


class NetworkLearner(Learner, Protocol):
    """A learner that ends in a network."""

    @property
    def certificate(self) -> Certificate:
        """Of the best point so far."""
        ...

    def network(self) -> Network:
        """Of the best point so far."""
        ...


class Shared(NamedTuple):
    """What the networks of one method and seed share along the path of betas; None where each has its own."""

    patterns: Patterns | None
    linear_step: LinearStep | None


class LinearProbe:
    """A learner of one step: scikit-learn's linear model, as the network relu(w x) - relu(-w x)."""

    def __init__(self, rows: Rows, *, beta: float, loss: LossName) -> None:
        self._rows, self._beta = rows, beta
        self._loss: LossName = loss
        zero = rows.x.new_zeros(rows.x.shape[1])
        self._weights = zero
        self.certificate = certificate_of(float(LOSSES[loss].value(rows.x @ zero, rows.y)), 0.0, 0.0)

    def step(self, batch: object = None) -> dict[str, Tensor | float]:
        """Fit w to loss + beta/2 |w|^2."""
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.svm import LinearSVC

        x, y = self._rows.x.numpy(force=True), self._rows.y.numpy(force=True)
        models: dict[LossName, Any] = {
            "squared": lambda: Ridge(alpha=self._beta, fit_intercept=False),
            "logistic": lambda: LogisticRegression(C=1 / self._beta, fit_intercept=False, max_iter=10_000),
            "hinge": lambda: LinearSVC(C=1 / self._beta, loss="hinge", fit_intercept=False, max_iter=100_000),
        }
        self._weights = torch.from_numpy(models[self._loss]().fit(x, y).coef_.reshape(-1)).to(self._rows.x)
        network = self.network()
        objective = network_objective(network, self._rows.x, self._rows.y, beta=self._beta, loss=LOSSES[self._loss])
        self.certificate = certificate_of(float(objective), 0.0, 0.0)
        return {"loss": objective, "objective": objective}

    def network(self) -> Network:
        """Two neurons of equal norm."""
        root = self._weights.norm().sqrt().clamp_min(1e-300)
        hidden = self._weights / root
        return Network(torch.stack([hidden, -hidden]), torch.stack([root, -root]))

    def state_dict(self) -> dict[str, Any]:
        """Weights and value."""
        return {"weights": self._weights, "certificate": list(self.certificate)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._weights = state["weights"].to(self._rows.x)
        self.certificate = Certificate(*state["certificate"])


def share(method: Method, rows: Rows, train: NetworkTrainConfig, seed: int) -> Shared:
    """Patterns and factors that do not depend on beta."""
    generator = torch.Generator().manual_seed(seed)
    match method:
        case ConvexMethod(patterns="enumerated"):
            patterns = enumerate_patterns(rows.x)
        case ConvexMethod(patterns="sampled", n_patterns=n) | RobustMethod(n_patterns=n):
            patterns = sample_patterns(rows.x, n, generator)
        case _:
            return Shared(None, None)
    if not isinstance(method, ConvexMethod):
        return Shared(patterns, None)
    program = ConvexProgram(rows.x, rows.y, patterns, beta=train.betas[0], loss=train.loss)
    return Shared(patterns, _linear_step(method, program, seed))


def _linear_step(method: ConvexMethod, program: ConvexProgram, seed: int) -> LinearStep:
    return ExactStep(program) if method.solver == "admm" else BlockStep(program, seed=seed)


def _descent_patterns(spec: NetworkSpec, method: ConvexMethod, rows: Rows, loss: LossName) -> Patterns:
    """Of the neurons that gradient descent at the same beta ends with."""
    defaults = DescentMethod(method="gradient_descent")
    descent = NetworkDescent(
        rows.x, rows.y, beta=spec.beta, loss=loss, n_neurons=method.n_patterns, n_restarts=1, n_steps=defaults.n_steps,
        learning_rate=defaults.learning_rate, seed=spec.seed,
    )  # fmt: skip
    for _ in range(defaults.n_steps):
        descent.step()
    return patterns_of(rows.x, descent.network().hidden)


def make_network_learner(
    spec: NetworkSpec, rows: Rows, train: NetworkTrainConfig, shared: Shared, start: Tensor | None
) -> NetworkLearner:
    """The learner of one network at step 0; convex programs start from ``start``, the point of the beta before."""
    x, y = rows
    match spec.method:
        case ConvexMethod() as method:
            own = shared.patterns is None
            patterns = shared.patterns or _descent_patterns(spec, method, rows, train.loss)
            program = ConvexProgram(x, y, patterns, beta=spec.beta, loss=train.loss)
            linear_step = shared.linear_step or _linear_step(method, program, spec.seed)
            return ADMM(program, tolerance=train.tolerance, linear_step=linear_step, start=None if own else start)
        case RobustMethod(epsilon=epsilon):
            assert shared.patterns is not None
            return RobustADMM(RobustProgram(x, y, shared.patterns, beta=spec.beta, loss=train.loss, epsilon=epsilon))
        case SampledMethod() as method:
            n_samples = method.n_samples or n_samples_for(
                len(y), violation=method.violation, confidence=method.confidence
            )
            generator = torch.Generator().manual_seed(spec.seed)
            directions = sample_directions(n_samples, x.shape[1], generator, dtype=x.dtype).to(x.device)
            return SampledProgram(x, y, directions, beta=spec.beta, loss=train.loss)
        case DescentMethod() as method:
            return NetworkDescent(
                x, y, beta=spec.beta, loss=train.loss, n_neurons=method.n_neurons, n_restarts=method.n_restarts,
                n_steps=method.n_steps, learning_rate=method.learning_rate, seed=spec.seed,
            )  # fmt: skip
        case LinearMethod():
            return LinearProbe(rows, beta=spec.beta, loss=train.loss)


def n_steps_of(method: Method, train: NetworkTrainConfig) -> int:
    """Steps at most."""
    match method:
        case DescentMethod(n_steps=n_steps):
            return n_steps
        case LinearMethod():
            return 1
        case SampledMethod():
            return _SCP_STEPS
        case _:
            return train.max_steps
