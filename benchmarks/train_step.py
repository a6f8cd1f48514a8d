"""One training step of a Gated SAE: ours against plain autograd, SAELens and the encoder product it cannot do without.

    python -m benchmarks.train_step [--repeats 5] [--device cpu] [--shapes 576x4608x4096x48 2048x16384x2048x64] [--growth]

Every side trains the same SAE (same weights, thresholds, batch), interleaved in one run; medians. A step is gradients,
optimiser and projection. The bfloat16 sides run where the device multiplies bfloat16. The last line is one JSON object.
"""

import argparse
import copy
import json
import statistics
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.peers import saelens_trainer
from core.devices import multiplies_bfloat16
from saes.architectures import Gated
from saes.architectures.gated import calibrate, dense_gradients, dense_objective
from saes.config import LearnerConfig
from saes.learner import SAELearner

LEARNING_RATE = 1e-7  # so that L0 stays where it was set while steps are timed
COEFFICIENT = 3.0
GROWTH = [(576, d_sae, 4096, 48) for d_sae in (1152, 2304, 4608, 9216)] + [
    (576, 4608, 4096, l0) for l0 in (12, 24, 96, 184)
]


class Shape(NamedTuple):
    d_in: int
    d_sae: int
    batch: int
    l0: float

    @property
    def name(self) -> str:
        return f"{self.d_in}x{self.d_sae}"


def learner(shape: Shape, x: Tensor, compute_dtype: str) -> SAELearner:
    config = LearnerConfig(
        learning_rate=LEARNING_RATE,
        init_l0=shape.l0,
        sparsity_warmup_fraction=0,
        dead_reset=False,
        compute_dtype=compute_dtype,  # pyright: ignore[reportArgumentType]
    )
    one = SAELearner(
        Gated(shape.d_in, shape.d_sae),
        config,
        sparsity_coefficient=COEFFICIENT,
        n_steps=1_000_000,
        seed=0,
        mean=torch.zeros(shape.d_in),
        scale=1.0,
        device=x.device,
    )
    one.step(x)
    return one


def dense_learner_step(one: SAELearner, x: Tensor) -> Callable[[], object]:
    """Our learner with the dense formula instead of the sparse one."""

    def step() -> None:
        _, gradient = dense_gradients(one.sae, x, COEFFICIENT)
        one._update(gradient, LEARNING_RATE)

    return step


def autograd_step(one: SAELearner, x: Tensor) -> Callable[[], object]:
    """What one writes by hand: one encoder product, autograd, the default Adam."""
    sae = copy.deepcopy(one.sae)
    optimiser = torch.optim.Adam(sae.parameters(), lr=LEARNING_RATE, betas=(0.0, 0.999))

    def step() -> None:
        optimiser.zero_grad()
        dense_objective(sae, x, COEFFICIENT).loss.backward()
        optimiser.step()
        with torch.no_grad():
            sae.cfg.project(sae)

    return step


def saelens_step(one: SAELearner, x: Tensor, *, autocast: bool) -> Callable[[], object]:
    """SAELens' own trainer step on the same weights and gates."""
    trainer = saelens_trainer(one.sae, COEFFICIENT, len(x), LEARNING_RATE, autocast=autocast)
    return lambda: trainer.step(x)


def sides(shape: Shape, device: str, peers: bool) -> tuple[dict[str, Callable[[], object]], float]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape.batch, shape.d_in, generator=generator).to(device)
    ours = learner(shape, x, "float32")
    calibrate(ours.sae, x, shape.l0)
    l0 = float(ours.step(x)["l0"])
    weight = ours.sae.W_enc.detach().T.contiguous()
    steps: dict[str, Callable[[], object]] = {
        "encoder product float32": lambda: x @ weight.T,
        "ours float32": lambda: ours.step(x),
    }
    if multiplies_bfloat16(x.device):
        screened = learner(shape, x, "bfloat16")
        calibrate(screened.sae, x, shape.l0)
        weight_low, x_low = weight.bfloat16(), x.bfloat16()
        steps["encoder product bfloat16"] = lambda: x_low @ weight_low.T
        steps["ours bfloat16"] = lambda: screened.step(x)
    if peers:
        steps["ours dense"] = dense_learner_step(copy.deepcopy(ours), x)
        steps["plain autograd"] = autograd_step(ours, x)
        steps["SAELens float32"] = saelens_step(ours, x, autocast=False)
        if device != "cpu":
            steps["SAELens bfloat16 autocast"] = saelens_step(ours, x, autocast=True)
    return steps, l0


def measure(steps: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each side, interleaved, one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(repeats + 1):
        for name, step in steps.items():
            _synchronise(device)
            started = time.perf_counter()
            step()
            _synchronise(device)
            if number > 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def ratios(seconds: dict[str, float]) -> dict[str, float | None]:
    """None where this device has no bfloat16 arithmetic."""

    def ratio(above: str, below: str) -> float | None:
        return round(seconds[above] / seconds[below], 3) if below in seconds else None

    result = {
        "float32_vs_saelens": ratio("SAELens float32", "ours float32"),
        "bfloat16_vs_saelens": ratio("SAELens float32", "ours bfloat16"),
        "step_over_encoder_product": ratio("ours float32", "encoder product float32"),
        "bfloat16_step_over_encoder_product": ratio("ours bfloat16", "encoder product bfloat16"),
    }
    if "SAELens bfloat16 autocast" in seconds:
        result["bfloat16_vs_saelens_autocast"] = ratio("SAELens bfloat16 autocast", "ours bfloat16")
    return result


def report(shape: Shape, l0: float, seconds: dict[str, float]) -> None:
    print(f"\nd_in {shape.d_in}, d_sae {shape.d_sae}, batch {shape.batch}, L0 {l0:.1f}")
    for name, value in seconds.items():
        print(f"  {name:28} {value * 1e3:10.1f} ms  {value / seconds['encoder product float32']:8.2f} encoder products")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shapes", nargs="+", default=["576x4608x4096x48", "2048x16384x2048x64"])
    parser.add_argument("--growth", action="store_true", help="our side alone over d_sae and L0")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    result: dict[str, dict[str, float | None]] = {}
    for text in arguments.shapes:
        shape = Shape(*(int(part) for part in text.split("x")))
        steps, l0 = sides(shape, arguments.device, peers=True)
        seconds = measure(steps, arguments.repeats, arguments.device)
        report(shape, l0, seconds)
        result[shape.name] = ratios(seconds)
    for shape in map(Shape._make, GROWTH if arguments.growth else []):
        steps, l0 = sides(shape, arguments.device, peers=False)
        report(shape, l0, measure(steps, arguments.repeats, arguments.device))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
