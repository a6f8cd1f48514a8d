"""Metrics of a trained two-layer network on prepared rows: fit, and fit under attack."""

from collections.abc import Sequence

import torch

from core.schema import exactly
from eval.metrics import BalancedAccuracy, RSquared
from twolayer.attacks import fgsm, pgd
from twolayer.config import CLASSIFICATION, LossName
from twolayer.data import Rows
from twolayer.losses import LOSSES
from twolayer.network import Network, network_objective

Score = RSquared | BalancedAccuracy


def score(name: str, network: Network, rows: Rows, loss: LossName) -> Score:
    """Balanced accuracy of labels, R2 of targets, measured on ``rows``."""
    metric = BalancedAccuracy(name) if loss in CLASSIFICATION else RSquared(name)
    metric.update(rows.y, network(rows.x))
    return metric


def evaluate_network(
    network: Network,
    train: Rows,
    validation: Rows,
    test: Rows,
    *,
    beta: float,
    loss: LossName,
    epsilons: Sequence[float],
    pgd_steps: int,
) -> dict[str, float]:
    """Scores on three sets of rows, the non-convex objective, and scores on test rows under attack at each epsilon."""
    objective = network_objective(network, train.x.cpu(), train.y.cpu(), beta=beta, loss=LOSSES[loss])
    measured = {"n_neurons": len(network.output), "network_objective": float(objective)}
    scores = [
        score("train_score", network, train, loss),
        score("validation_score", network, validation, loss),
        on_test := score("test_score", network, test, loss),
    ]
    measured |= {one.name: one.value for one in scores}
    is_known = isinstance(on_test, BalancedAccuracy)
    measured["test_standard_error"] = on_test.standard_error if is_known else float("nan")
    for epsilon in epsilons:
        generator = torch.Generator().manual_seed(0)
        x, y, kind = test.x, test.y, LOSSES[loss]
        attacked = {
            "fgsm": fgsm(network, x, y, epsilon=epsilon, loss=kind),
            "pgd": pgd(network, x, y, epsilon=epsilon, loss=kind, generator=generator, n_steps=pgd_steps),
        }
        for attack, moved in attacked.items():
            name = f"{attack}_{exactly(epsilon)}"
            measured[name] = score(name, network, Rows(moved, y), loss).value
    return measured
