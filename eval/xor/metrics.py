"""Metrics of a network on XOR clusters, from a snapshot of its descent."""

from collections.abc import Callable
from typing import Protocol

from eval.metrics import Accuracy, RSquared, values
from twolayer.xor.descent import Snapshot


class XORMetric(Protocol):
    """A column of an evaluation of XOR clusters."""

    name: str

    def update(self, snapshot: Snapshot) -> None:
        """Measure a snapshot."""
        ...

    @property
    def value(self) -> float:
        """Of the snapshot seen."""
        ...


class LabelAccuracy:
    """`Accuracy` on the training labels, flips included; on the flipped ones alone; or on clean test labels."""

    def __init__(self, name: str, rows: str) -> None:
        self.name = name
        self._rows = rows
        self._accuracy = Accuracy(name)

    def update(self, snapshot: Snapshot) -> None:
        labels = snapshot.labels
        if self._rows == "test":
            self._accuracy.update(labels.test, snapshot.signs @ snapshot.test.clamp_min(0))
            return
        outputs = snapshot.signs @ snapshot.train.clamp_min(0)
        chosen = labels.is_flipped if self._rows == "flipped" else slice(None)
        self._accuracy.update(labels.train[chosen], outputs[chosen])

    @property
    def value(self) -> float:
        return self._accuracy.value


class OwnFeatureShare:
    """Share of neurons whose projection on the mean of their own sign's clusters is the larger one."""

    name = "own_feature_share"
    value = float("nan")

    def update(self, snapshot: Snapshot) -> None:
        projections = snapshot.means.abs()
        own = projections.where(snapshot.signs[:, None] > 0, projections.flip(1))
        self.value = float((own[:, 0] > own[:, 1]).double().mean())


class LinearSlope:
    """Least-squares slope of f on <sum_i y_i x_i, x> over test rows, over alpha / (8 n): 1 if f is that linear classifier."""

    name = "linear_slope"
    value = float("nan")

    def update(self, snapshot: Snapshot) -> None:
        self.value = slope(snapshot) / snapshot.scale


class LinearR2:
    """`RSquared` of that fit: 1 if f is linear."""

    name = "linear_r_squared"

    def __init__(self) -> None:
        self._r_squared = RSquared(self.name)

    def update(self, snapshot: Snapshot) -> None:
        f = snapshot.signs @ snapshot.test.clamp_min(0)
        self._r_squared.update(f, slope(snapshot) * snapshot.linear)

    @property
    def value(self) -> float:
        return self._r_squared.value


def slope(snapshot: Snapshot) -> float:
    """Least squares of f on <sum_i y_i x_i, x> over test rows, through the origin."""
    f = snapshot.signs @ snapshot.test.clamp_min(0)
    return float(snapshot.linear @ f / (snapshot.linear @ snapshot.linear))


METRICS: tuple[Callable[[], XORMetric], ...] = (
    lambda: LabelAccuracy("train_accuracy", "train"),
    lambda: LabelAccuracy("test_accuracy", "test"),
    lambda: LabelAccuracy("flipped_fit", "flipped"),
    OwnFeatureShare,
    LinearSlope,
    LinearR2,
)
METRIC_NAMES = [make().name for make in METRICS]


def measure(snapshot: Snapshot) -> dict[str, float]:
    """Every metric of a snapshot, by name; NaN where a fit of no rows, or of an output that does not vary, is asked for."""
    metrics = [make() for make in METRICS]
    for metric in metrics:
        metric.update(snapshot)
    return values(metrics)
