"""How an SAE is trained: settings and schedules. Needs no torch, so that a study is validated before torch is imported."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

ComputeDtype = Literal["auto", "float32", "bfloat16"]
Frozen = Literal["nothing", "decoder", "encoder", "dictionary"]
FROZEN_PARAMETERS: dict[Frozen, tuple[str, ...]] = {
    "nothing": (),
    "decoder": ("W_dec",),
    "encoder": ("W_enc",),
    "dictionary": ("W_dec", "W_enc"),
}


@dataclass(frozen=True)
class LearnerConfig:
    """How an SAE is trained; the same for every architecture. Raises ValueError listing every value out of range."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 (read by pydantic when a study is validated)

    learning_rate: float = 1.5e-3
    """Adam's step size after the warm-up; betas are (0, 0.999)."""
    warmup_fraction: float = 0.05
    """Share of the steps over which the learning rate rises from 0."""
    decay_fraction: float = 0.3
    """Share of the steps, at the end, over which it falls to 0."""
    sparsity_warmup_fraction: float = 0.1
    """Share of the steps over which lambda rises from 0."""
    auxiliary_loss: bool = True
    """The auxiliary reconstruction through the gate; off is the ablation."""
    threshold_init: Literal["calibrated", "constant"] = "calibrated"
    """calibrated: each latent fires on `init_l0 / d_sae` of the first batch. constant: the published form."""
    init_l0: float = 40.0
    """Latents per token at the start (calibrated), and after a dead latent's reset."""
    constant_threshold: float = 0.0
    """theta at the start (constant); for Gated, -b_gate."""
    compute_dtype: ComputeDtype = "auto"
    """Of the encoder product. bfloat16 only screens for open gates, so the step stays exact; auto: where it is native."""
    target_l0: float | None = None
    """Steer lambda, from the coefficient given, so that training ends near this L0."""
    frozen: Frozen = "nothing"
    """What stays as it was drawn: baselines that say how much of a score training the directions is worth."""
    dead_reset: bool = True
    """Recalibrate the threshold of a latent that has not fired for `dead_window` tokens."""
    dead_window: int = 200_000
    """Tokens without firing after which a latent counts as dead."""

    def __post_init__(self) -> None:
        rules = {
            "learning_rate": (0 < self.learning_rate <= 100, "more than 0 and at most 100"),
            "warmup_fraction": (0 <= self.warmup_fraction < 1, "in [0, 1)"),
            "decay_fraction": (0 <= self.decay_fraction <= 1 - self.warmup_fraction, "in [0, 1 - warmup_fraction]"),
            "sparsity_warmup_fraction": (0 <= self.sparsity_warmup_fraction <= 1, "in [0, 1]"),
            "init_l0": (0 < self.init_l0 <= 1e9, "more than 0 and at most 1e9"),
            "target_l0": (self.target_l0 is None or 0 < self.target_l0 <= 1e9, "more than 0 and at most 1e9"),
            "constant_threshold": (abs(self.constant_threshold) <= 1e9, "between -1e9 and 1e9"),
            "dead_window": (0 < self.dead_window <= 10**15, "more than 0 and at most 1e15"),
        }
        broken = [
            f"{name} is {getattr(self, name)}, it must be {rule}" for name, (holds, rule) in rules.items() if not holds
        ]
        if broken:
            raise ValueError("; ".join(broken))


class Schedule(NamedTuple):
    """Step sizes of one step."""

    learning_rate: float
    sparsity_coefficient: float


def schedule(config: LearnerConfig, sparsity_coefficient: float, step: int, n_steps: int) -> Schedule:
    """Linear warm-up, constant, linear decay to 0 for the learning rate; linear warm-up for lambda. ``step`` from 0."""
    warmup = config.warmup_fraction * n_steps
    decay = config.decay_fraction * n_steps
    rise = min(1.0, (step + 1) / warmup) if warmup >= 1 else 1.0
    fall = min(1.0, (n_steps - step) / decay) if decay >= 1 else 1.0
    sparsity_warmup = config.sparsity_warmup_fraction * n_steps
    sparsity_rise = min(1.0, step / sparsity_warmup) if sparsity_warmup >= 1 else 1.0
    return Schedule(config.learning_rate * min(rise, fall), sparsity_coefficient * sparsity_rise)
