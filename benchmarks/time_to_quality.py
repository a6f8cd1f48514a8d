"""Seconds until held-out R2 0.60 at L0 40 or less: our Gated SAE against SAELens' own trainer on the same activations.

    python -m benchmarks.time_to_quality [--activations runs/demo/activations] [--d-sae 2304] [--search]

Every schedule ends with a decay of the learning rate, so quality is reached at the end of a run: each side climbs a ladder of
run lengths and its time is that of the shortest run which ends at the quality, reading included and evaluation left out. Both
sides use the settings that `--search`, at one length, found best for them, read the same shards in the same order and are
measured by the same `evaluate`. The last line is one JSON object.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.peers import as_our_sae, saelens_gated_trainer
from eval.saes.metrics import evaluate
from hookpoints.batches import ShardBatches
from hookpoints.shards import ActivationDataset
from saes.architectures import Gated
from saes.config import LearnerConfig
from saes.learner import SAELearner
from saes.sae import SAE

R_SQUARED, MOST_L0 = 0.60, 40.0
LADDER = [60, 70, 80, 90, 100, 115, 130, 150, 175, 200, 240, 300]


class Setting(NamedTuple):
    """What is searched; warm-ups and decay are the defaults of `LearnerConfig`, for both sides."""

    batch_size: int
    learning_rate: float
    coefficient: float


OURS = Setting(batch_size=1024, learning_rate=5e-3, coefficient=3.5)
SAELENS = Setting(batch_size=512, learning_rate=4e-3, coefficient=4.5)
GRID = [
    Setting(batch_size, rate, coefficient)
    for batch_size in (512, 1024, 4096)
    for rate in (3e-3, 5e-3, 7e-3)
    for coefficient in (3.0, 4.0, 5.5)
]


class Run(NamedTuple):
    n_steps: int
    seconds: float
    l0: float
    r_squared: float

    @property
    def has_quality(self) -> bool:
        return self.r_squared >= R_SQUARED and self.l0 <= MOST_L0


Train = Callable[[ActivationDataset, str, int, Setting, int], SAE]


def train_ours(dataset: ActivationDataset, hook_name: str, d_sae: int, setting: Setting, n_steps: int) -> SAE:
    statistics = dataset.statistics(hook_name)
    learner = SAELearner(
        Gated(dataset.d_in(hook_name), d_sae),
        LearnerConfig(learning_rate=setting.learning_rate),
        sparsity_coefficient=setting.coefficient,
        n_steps=n_steps,
        seed=0,
        mean=statistics.mean,
        scale=statistics.scale,
    )
    with ShardBatches(dataset, hook_name, batch_size=setting.batch_size, seed=0) as batches:
        for _ in range(n_steps):
            learner.step(next(batches))
    return learner.trained_sae()


def train_saelens(dataset: ActivationDataset, hook_name: str, d_sae: int, setting: Setting, n_steps: int) -> SAE:
    """From SAELens' own initial weights, with b_dec at the data's mean as ours."""
    batches = ShardBatches(dataset, hook_name, batch_size=setting.batch_size, seed=0)
    statistics = dataset.statistics(hook_name)
    defaults = LearnerConfig()
    torch.manual_seed(0)
    trainer = saelens_gated_trainer(
        d_in=dataset.d_in(hook_name),
        d_sae=d_sae,
        mean=statistics.mean * statistics.scale,
        sparsity_coefficient=setting.coefficient,
        learning_rate=setting.learning_rate,
        batch_size=setting.batch_size,
        n_steps=n_steps,
        warmup=defaults.warmup_fraction,
        decay=defaults.decay_fraction,
        sparsity_warmup=defaults.sparsity_warmup_fraction,
        data_provider=(next(batches) * statistics.scale for _ in range(n_steps)),
    )
    trainer.fit()
    return as_our_sae(trainer.sae, statistics.scale)


def measured(
    train: Train, dataset: ActivationDataset, hook_name: str, d_sae: int, setting: Setting, n_steps: int
) -> Run:
    started = time.perf_counter()
    sae = train(dataset, hook_name, d_sae, setting, n_steps)
    seconds = time.perf_counter() - started
    evaluation = evaluate(sae, dataset, hook_name).columns
    return Run(n_steps, seconds, evaluation["l0"], evaluation["r_squared"])


def report(side: str, setting: Setting, run: Run) -> None:
    print(
        f"{side:8} batch {setting.batch_size}  rate {setting.learning_rate:g}  lambda {setting.coefficient:g}  "
        f"{run.n_steps:4} steps {run.seconds:8.1f} s  "
        f"L0 {run.l0:7.1f}  R2 {run.r_squared:.4f}{'  reached' if run.has_quality else ''}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--activations", type=Path, default=Path("runs/demo/activations"))
    parser.add_argument("--d-sae", type=int, default=2304)
    parser.add_argument("--ladder", type=int, nargs="+", default=LADDER)
    parser.add_argument("--saelens-ladder", type=int, nargs="+", default=LADDER)
    parser.add_argument("--search", choices=["ours", "saelens"], help="one side over the grid of settings, then stop")
    parser.add_argument("--search-steps", type=int, default=100)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    dataset = ActivationDataset(arguments.activations)
    hook_name = dataset.hook_names[0]
    sides: dict[str, tuple[Train, Setting, list[int]]] = {
        "ours": (train_ours, OURS, arguments.ladder),
        "saelens": (train_saelens, SAELENS, arguments.saelens_ladder),
    }
    if arguments.search:
        train = sides[arguments.search][0]
        for setting in GRID:
            run = measured(train, dataset, hook_name, arguments.d_sae, setting, arguments.search_steps)
            report(arguments.search, setting, run)
        return
    reached: dict[str, Run] = {}
    for side, (train, setting, ladder) in sides.items():
        for n_steps in ladder:
            run = measured(train, dataset, hook_name, arguments.d_sae, setting, n_steps)
            report(side, setting, run)
            if run.has_quality:
                reached[side] = run
                break
    is_complete = len(reached) == len(sides)
    ratio = round(reached["saelens"].seconds / reached["ours"].seconds, 2) if is_complete else None
    print(
        json.dumps({"vs_saelens": ratio, **{f"{side}_seconds": round(run.seconds, 1) for side, run in reached.items()}})
    )


if __name__ == "__main__":
    main()
