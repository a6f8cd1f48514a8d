"""Rows from a user's file, and the linear model that a probe is compared with."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from pipeline.studies.networks.data import load_task
from pipeline.studies.networks.study import NetworkStudy
from twolayer.data import synthetic_rows
from twolayer.linear import LinearProbe
from twolayer.losses import LOSSES
from twolayer.network import network_objective


def table(n: int = 50) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(generator.normal(size=(n, 3)), columns=["a", "b", "c"])
    return frame.assign(kind=np.where(frame["a"] * frame["b"] > 0, "yes", "no"), value=frame["a"] - 2 * frame["b"])


def study(path, *, loss: str = "hinge", target: str = "kind", **data) -> NetworkStudy:
    return NetworkStudy.model_validate(
        {
            "kind": "networks",
            "name": "mine",
            "data": {"source": "csv", "path": str(path), "target": target, **data},
            "train": {"loss": loss, "methods": [{"method": "linear"}], "betas": [1.0]},
        }
    )


def written(tmp_path, frame: pd.DataFrame):
    path = tmp_path / "rows.csv"
    frame.to_csv(path, index=False)
    return path


def test_rows_of_a_file(tmp_path):
    frame = table()
    path = written(tmp_path, frame.drop(columns="value"))
    mine = study(path)
    task = load_task(mine, mine.tasks[0], None)
    assert [len(part.y) for part in (task.train, task.validation, task.test)] == [30, 10, 10]
    torch.testing.assert_close(task.train.x[:, :3].mean(dim=0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(task.train.x[:, :3].std(dim=0, correction=0), torch.ones(3, dtype=torch.float64))
    assert torch.equal(task.train.x[:, 3], torch.ones(30, dtype=torch.float64))
    raw = torch.tensor(frame[["a", "b", "c"]].to_numpy())
    everything = torch.cat([task.train.x, task.validation.x, task.test.x])
    labels = torch.cat([task.train.y, task.validation.y, task.test.y])
    order = torch.cdist(task.preparation(raw), everything).argmin(dim=1)
    assert order.unique().numel() == 50
    assert labels[order].tolist() == [1.0 if kind == "yes" else -1.0 for kind in frame["kind"]]


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda f: f, {"target": "kinds"}, "data.target: .* has no column 'kinds'; it has a, b, c"),
        (lambda f: f, {}, "the columns word are not numeric; encode them"),
        (
            lambda f: f.drop(columns=["word", "kind"]),
            {"target": "value"},
            "value holds 50 different values; .* take two classes",
        ),
        (
            lambda f: f.drop(columns=["word", "kind"]).iloc[:2],
            {"target": "value"},
            "has 2 rows; too few to train, choose beta and test",
        ),
        (
            lambda f: f.drop(columns=["word", "kind"]).assign(a=float("nan")),
            {"target": "value", "loss": "squared"},
            "rows.csv: the columns a hold values that are missing or infinite",
        ),
        (lambda f: f.drop(columns="word"), {"loss": "squared"}, "kind is not numeric; squared loss needs numbers"),
        (
            lambda f: f.drop(columns="word").assign(kind=f["kind"].where(f["a"] > 0)),
            {},
            "rows.csv: kind is missing in .* rows",
        ),
    ],
)
def test_bad_files_are_named(tmp_path, change, settings, message):
    path = written(tmp_path, change(table().assign(word="text")))
    mine = study(path, **settings)
    with pytest.raises(ValueError, match=message):
        load_task(mine, mine.tasks[0], None)


def test_a_missing_file_is_named(tmp_path):
    mine = study(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"data.path: .*none.csv cannot be read"):
        load_task(mine, mine.tasks[0], None)


@pytest.mark.parametrize("loss", LOSSES)
def test_linear_probe_is_scikit_learns_and_scores_as_a_network(loss):
    generator = torch.Generator().manual_seed(0)
    rows = synthetic_rows("product", 60, 4, noise=0.1, classes=LOSSES[loss].is_classification, generator=generator)
    probe = LinearProbe(rows, beta=0.5, loss=loss, seed=0)
    metrics = probe.step()
    network = probe.network()
    x, y = rows.x.numpy(), rows.y.numpy()
    if loss == "squared":
        expected = Ridge(alpha=0.5, fit_intercept=False).fit(x, y).predict(x)
        np.testing.assert_allclose(network(rows.x).numpy(), expected, atol=1e-9)
    if loss == "logistic":
        expected = LogisticRegression(C=2.0, fit_intercept=False, max_iter=10_000).fit(x, y).decision_function(x)
        np.testing.assert_allclose(network(rows.x).numpy(), expected, atol=1e-9)
    mirrored = network(-rows.x)
    torch.testing.assert_close(mirrored, -network(rows.x))
    objective = network_objective(network, rows.x, rows.y, beta=0.5, loss=LOSSES[loss])
    assert float(metrics["objective"]) == pytest.approx(float(objective))
    again = LinearProbe(rows, beta=0.5, loss=loss, seed=0)
    again.load_state_dict(probe.state_dict())
    assert torch.equal(again.network().hidden, network.hidden)
    assert again.certificate == probe.certificate
