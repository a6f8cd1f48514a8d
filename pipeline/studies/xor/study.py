"""What the YAML of an XOR-cluster study may say."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from core.schema import Schema
from pipeline.study import Kind, Study
from twolayer.xor.config import XORConfig


class XORTrainConfig(Schema):
    """Descents to run."""

    learning_rates: list[PositiveFloat] = Field(default=[1e-12], min_length=1)
    """Constant step sizes alpha, each with every seed."""
    n_seeds: PositiveInt = 20
    """Seeds of data and initial weights: 0, 1, ..."""
    n_steps: PositiveInt = 100
    """Steps of gradient descent."""
    method: Literal["gram", "plain"] = "gram"
    """gram works on inner products, plain on the weights; equal to rounding."""


class XOREvalConfig(Schema):
    """When networks are measured."""

    steps: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100])
    """Steps at which everything is measured; those past train.n_steps are left out, and the last step is always among them."""
    projection_steps: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 15])
    """Steps at which neurons are projected on the means."""


class XORStudy(Study):
    """Grokking on XOR clusters."""

    kind: Literal["xor"]
    """What is studied."""
    data: XORConfig = Field(default_factory=XORConfig)
    """Clusters and network."""
    train: XORTrainConfig = Field(default_factory=XORTrainConfig)
    """Descents to run."""
    eval: XOREvalConfig = Field(default_factory=XOREvalConfig)
    """When networks are measured."""

    @property
    def measured_steps(self) -> list[int]:
        """In order."""
        wanted = {*self.eval.steps, *self.eval.projection_steps, self.train.n_steps}
        return sorted(step for step in wanted if step <= self.train.n_steps)

    def run_ids(self) -> list[tuple[str, float, int]]:
        """Id, learning rate and seed of every descent."""
        return [
            (f"rate_{rate:g}-seed_{seed}", rate, seed)
            for rate in self.train.learning_rates
            for seed in range(self.train.n_seeds)
        ]


XOR = Kind("xor", XORStudy, "pipeline.studies.xor.stages")
