"""Eight SAEs in one bank against eight single runs, and against SAELens' trainers in lockstep on the same stream.

    python -m benchmarks.sweep [--activations runs/demo/activations] [--repeats 5] [--steps 4]

Reading is part of every side: ours read shards as `dipole train` does, once for the bank and once per single run; SAELens
is handed each batch read by our reader, as its multi-SAE trainer hands one batch to every member. Interleaved, medians.
The last line is one JSON object.
"""

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path

from benchmarks.peers import saelens_trainer
from core.trainer import BatchSource, Learner, fit
from hookpoints.batches import ShardBatches
from hookpoints.shards import ActivationDataset
from saes.architectures import Gated
from saes.bank import Bank
from saes.config import LearnerConfig
from saes.learner import SAELearner

D_SAE = 4608
BATCH_SIZE = 4096
COEFFICIENTS = [2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0]
READS = 100
LEARNING_RATE = 1e-7  # so that L0 stays where it was set while steps are timed


def learner(dataset: ActivationDataset, hook_name: str, coefficient: float) -> SAELearner:
    statistics_ = dataset.statistics(hook_name)
    config = LearnerConfig(learning_rate=LEARNING_RATE, init_l0=48, dead_reset=False)
    return SAELearner(
        Gated(dataset.d_in(hook_name), D_SAE),
        config,
        sparsity_coefficient=coefficient,
        n_steps=10**6,
        seed=0,
        mean=statistics_.mean,
        scale=statistics_.scale,
    )


def seconds_of(one: Learner, batches: BatchSource, steps: int) -> float:
    started = time.perf_counter()
    for _ in fit(one, batches, steps=steps):
        pass
    return time.perf_counter() - started


def seconds_of_reading(batches: ShardBatches, n_batches: int) -> float:
    """Nothing computes meanwhile, so every shard's read shows in full."""
    started = time.perf_counter()
    for _ in range(n_batches):
        next(batches)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--activations", type=Path, default=Path("runs/demo/activations"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    dataset = ActivationDataset(arguments.activations)
    hook_name = dataset.hook_names[0]

    def stream() -> ShardBatches:
        batches = ShardBatches(dataset, hook_name, batch_size=BATCH_SIZE, seed=0)
        next(batches)  # the shard is open, as in the middle of a run
        return batches

    bank = Bank({str(c): learner(dataset, hook_name, c) for c in COEFFICIENTS})
    singles = [learner(dataset, hook_name, c) for c in COEFFICIENTS]
    first = next(stream())
    bank.step(first)
    for single in singles:
        single.step(first)
    theirs = [
        saelens_trainer(s.sae, s.sparsity_coefficient, BATCH_SIZE, LEARNING_RATE, autocast=False) for s in singles
    ]
    seconds: dict[str, list[float]] = {"bank of 8": [], "8 single runs": [], "SAELens, 8 in lockstep": []}
    for _ in range(arguments.repeats):
        seconds["bank of 8"].append(seconds_of(bank, stream(), arguments.steps))
        seconds["8 single runs"].append(sum(seconds_of(single, stream(), arguments.steps) for single in singles))
        started = time.perf_counter()
        scaled = next(stream()) * singles[0].scale
        for trainer in theirs:
            trainer.step(scaled)
        seconds["SAELens, 8 in lockstep"].append((time.perf_counter() - started) * arguments.steps)
    medians = {name: statistics.median(values) / arguments.steps for name, values in seconds.items()}
    print(f"{hook_name}, d_sae {D_SAE}, batch {BATCH_SIZE}, one step of all eight")
    for name, value in medians.items():
        print(f"  {name:24} {value * 1e3:10.1f} ms")
    reading = seconds_of_reading(stream(), READS) / READS
    print(
        f"  {'reading one batch':24} {reading * 1e3:10.1f} ms, {reading / medians['bank of 8']:.1%} of the bank's step, "
        f"{reading / medians['8 single runs'] * 8:.1%} of a single one"
    )
    result = {
        "bank8_over_8_single": round(medians["bank of 8"] / medians["8 single runs"], 3),
        "vs_saelens_multi": round(medians["SAELens, 8 in lockstep"] / medians["bank of 8"], 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
