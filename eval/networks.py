"""Metrics of a trained two-layer network on prepared rows: fit, certificate, attacks; and verdicts in words."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from twolayer.attacks import fgsm, pgd
from twolayer.data import Rows
from twolayer.losses import LOSSES, LossName
from twolayer.network import Network, network_objective

_METHOD_NAMES = {
    "convex": "the convex program",
    "scp": "the sampled program",
    "robust": "robust training",
    "gradient_descent": "gradient descent",
    "linear": "the linear model",
}
_CHANCE = 0.5


def score(f: Tensor, y: Tensor, *, classes: bool) -> float:
    """Balanced accuracy (mean over both classes of the share predicted) of labels, R2 = 1 - SSE/SST of targets."""
    if not classes:
        return float(1 - (f - y).square().sum() / (y - y.mean()).square().sum())
    is_right = (f > 0) == (y > 0)
    return float(torch.stack([is_right[y > 0].double().mean(), is_right[y < 0].double().mean()]).nanmean())


def evaluate_network(
    network: Network, train: Rows, validation: Rows, test: Rows, *, beta: float, loss: LossName, epsilons: Sequence[float],
    pgd_steps: int,
) -> dict[str, float]:  # fmt: skip
    """Scores on three sets of rows, the non-convex objective, and scores on test rows under attack at each epsilon."""
    classes = LOSSES[loss].is_classification
    objective = network_objective(network, train.x.cpu(), train.y.cpu(), beta=beta, loss=LOSSES[loss])
    measured = {
        "n_neurons": len(network.output),
        "network_objective": float(objective),
        "train_score": score(network(train.x), train.y, classes=classes),
        "validation_score": score(network(validation.x), validation.y, classes=classes),
        "test_score": score(network(test.x), test.y, classes=classes),
    }
    for epsilon in epsilons:
        generator = torch.Generator().manual_seed(0)
        attacked = {
            "fgsm": fgsm(network, test.x, test.y, epsilon=epsilon, loss=LOSSES[loss]),
            "pgd": pgd(
                network, test.x, test.y, epsilon=epsilon, loss=LOSSES[loss], generator=generator, n_steps=pgd_steps
            ),
        }
        for attack, x in attacked.items():
            measured[f"{attack}_{epsilon:g}"] = score(network(x), test.y, classes=classes)
    return measured


class Chosen(NamedTuple):
    """A method of a task at the beta with the best mean validation score."""

    family: str
    method: str
    beta: float
    rows: pd.DataFrame
    """One per seed."""

    @property
    def test_score(self) -> float:
        """Mean over seeds."""
        return float(self.rows["test_score"].mean())

    @property
    def name(self) -> str:
        """For sentences."""
        return _METHOD_NAMES[self.method]


def choose(table: pd.DataFrame) -> dict[str, list[Chosen]]:
    """By task: every family at its best beta."""
    chosen: dict[str, list[Chosen]] = {}
    for (task, family), rows in table.groupby(["task", "family"], sort=False):
        means = rows.groupby("beta")["validation_score"].mean()
        beta = float(means.idxmax())  # pyright: ignore[reportArgumentType]
        best = rows[rows["beta"] == beta]
        chosen.setdefault(str(task), []).append(Chosen(str(family), str(best["method"].iloc[0]), beta, best))
    return chosen


def network_sentences(table: pd.DataFrame, task: str) -> list[str]:
    """What an evaluation table says of a task, one sentence each."""
    of_task = table[table["task"] == task]
    what = "balanced accuracy" if LOSSES[table["loss"].iloc[0]].is_classification else "R²"
    said = [*_certificate_sentences(of_task), *_descent_sentences(of_task)]
    chosen = choose(of_task)[task]
    scores = ", ".join(f"{one.test_score:.3f} for {one.name} ({one.family})" for one in chosen)
    said.append(f"On test rows, at the beta that validation rows choose, {what} is {scores}.")
    said += _probe_sentences(chosen) if what == "balanced accuracy" else []
    return said + _attack_sentences(of_task, chosen, what)


def _certificate_sentences(table: pd.DataFrame) -> list[str]:
    said = []
    for family, rows in table[table["is_certified"]].groupby("family", sort=False):
        worst = rows.loc[rows["relative_gap"].idxmax()]
        within = f"within {worst['relative_gap']:.1e} (relative) of its optimum"
        said.append(
            f"{family}: all {len(rows)} solution(s) are certified {within}, at beta {worst['beta']:g} the worst, with cone "
            f"violation {rows['violation'].max():.1e} before they were moved inside."
        )
    return said


def _descent_sentences(table: pd.DataFrame) -> list[str]:
    """Objective of gradient descent over the certified one, by beta."""
    convex = table[table["method"] == "convex"].groupby("beta")["objective"].min()
    descent = table[table["method"] == "gradient_descent"].groupby("beta")["objective"].min()
    shared = [beta for beta in convex.index if beta in descent.index]
    if not shared:
        return []
    excess = {beta: descent[beta] / convex[beta] - 1 for beta in shared}
    listed = ", ".join(f"{excess[beta]:+.2%} at beta {beta:g}" for beta in shared)
    note = (
        ""
        if min(excess.values()) >= 0
        else "; below zero it found neurons outside the sampled patterns, sample more of them"
    )
    return [f"The best gradient-descent run ends above the convex optimum by {listed}{note}."]


def _probe_sentences(chosen: list[Chosen]) -> list[str]:
    linear = [one for one in chosen if one.method == "linear"]
    convex = [one for one in chosen if one.method == "convex"]
    if not linear or not convex:
        return []
    gain = convex[0].test_score - linear[0].test_score
    at = f"{linear[0].test_score:.3f} against {convex[0].test_score:.3f}, chance is {_CHANCE:g}"
    if linear[0].test_score < _CHANCE + 0.5 * (convex[0].test_score - _CHANCE):
        return [f"The linear model fails where the smallest non-linear one does not: {at}."]
    return [f"The non-linear model is {'better' if gain > 0 else 'no better'} by {gain:+.3f}: {at}."]


def _attack_sentences(table: pd.DataFrame, chosen: list[Chosen], what: str) -> list[str]:
    said = []
    for column in [name for name in table if str(name).startswith("pgd_")]:
        scores = ", ".join(f"{float(one.rows[column].mean()):.3f} for {one.name} ({one.family})" for one in chosen)
        said.append(f"Under PGD of radius {str(column).removeprefix('pgd_')}, {what} is {scores}.")
    return said


def network_verdict_table(table: pd.DataFrame) -> pd.DataFrame:
    """The numbers behind the sentences: every family of every task at its chosen beta, means over seeds."""
    rows = []
    for task, families in choose(table).items():
        for one in families:
            means = one.rows.select_dtypes("number").mean()
            names = [name for name in means.index if name.endswith("_score") or name.startswith(("fgsm_", "pgd_"))]
            proof = {name: means[name] for name in ("objective", "lower_bound", "relative_gap", "violation", "seconds")}
            rows.append({"task": task, "family": one.family, "beta": one.beta, **proof, **{n: means[n] for n in names}})
    return pd.DataFrame(rows)
