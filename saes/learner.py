"""One SAE learning by gradient steps: what `pipeline.trainer.fit` drives."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from saes.objective import Gradients
from saes.sae import SAE, SAEConfig, folded
from saes.sparse import gradients
from saes.support import ComputeDtype, resolve_compute_dtype
from saes.thresholds import calibrate, project

_STEERING_GAIN = 0.06
"""Exponent of L0 / target_l0 by which lambda moves in one step."""
_MOST_STEERING = 1000.0
"""lambda stays within this factor of the coefficient given."""
_LEAST_L0 = 1e-3


@dataclass(frozen=True)
class LearnerConfig:
    """How an SAE is trained; the same for both architectures. Raises ValueError listing every value out of range."""

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
    dead_reset: bool = True
    """Recalibrate the threshold of a latent that has not fired for `dead_window` tokens."""
    dead_window: int = 200_000
    """Tokens without firing after which a latent counts as dead."""

    def __post_init__(self) -> None:
        rules = {
            "learning_rate": (self.learning_rate > 0, "more than 0"),
            "warmup_fraction": (0 <= self.warmup_fraction < 1, "in [0, 1)"),
            "decay_fraction": (
                0 <= self.decay_fraction <= 1 - self.warmup_fraction,
                "in [0, 1 - warmup_fraction]",
            ),
            "sparsity_warmup_fraction": (0 <= self.sparsity_warmup_fraction <= 1, "in [0, 1]"),
            "init_l0": (self.init_l0 > 0, "more than 0"),
            "target_l0": (self.target_l0 is None or self.target_l0 > 0, "more than 0"),
            "dead_window": (self.dead_window > 0, "more than 0"),
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


class SAELearner:
    """Trains one SAE on raw activations, which it scales so that their mean norm is sqrt(d_in).

    Args:
        cfg: the SAE.
        config: how to train it.
        sparsity_coefficient: lambda.
        n_steps: length of the schedules.
        seed: of the initial weights.
        mean: ``[d_in]``, mean of the raw activations; b_dec starts there.
        scale: the constant that activations are multiplied by.
        device: where to train.
    """

    def __init__(
        self,
        cfg: SAEConfig,
        config: LearnerConfig,
        *,
        sparsity_coefficient: float,
        n_steps: int,
        seed: int,
        mean: Tensor,
        scale: float,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config = config
        self.sparsity_coefficient = sparsity_coefficient
        self.n_steps = n_steps
        self.scale = scale
        sae = SAE(cfg, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            sae.b_dec.copy_(mean * scale)
            sae.threshold.fill_(config.constant_threshold)
        self.sae = sae.to(device)
        self._compute_dtype = resolve_compute_dtype(config.compute_dtype, torch.device(device))
        self._trained = {name: _as_it_lies(name, parameter.detach()) for name, parameter in self.sae.named_parameters()}
        self.optimizer = torch.optim.Adam(
            self._trained.values(), lr=config.learning_rate, betas=(0.0, 0.999), fused=True
        )
        self.tokens_since_fired = torch.zeros(cfg.d_sae, dtype=torch.int64, device=device)
        self.step_number = 0
        self.n_dead_resets = 0
        self.coefficient_factor = 1.0
        """What steering towards ``target_l0`` has made of lambda so far."""

    def step(self, batch: Tensor) -> dict[str, Tensor | float]:
        """One update on raw activations ``[batch, d_in]``; returns the parts of the loss and the state of the latents."""
        return self.step_scaled(batch.to(self.sae.b_dec.device, torch.float32) * self.scale)

    def step_scaled(self, x: Tensor) -> dict[str, Tensor | float]:
        """As `step`, on activations that are scaled already and on the SAE's device."""
        if self.step_number == 0 and self.config.threshold_init == "calibrated":
            calibrate(self.sae, x, self.config.init_l0)
        coefficient = self.sparsity_coefficient * self.coefficient_factor
        now = schedule(self.config, coefficient, self.step_number, self.n_steps)
        objective, gradient = gradients(
            self.sae,
            x,
            now.sparsity_coefficient,
            auxiliary_loss=self.config.auxiliary_loss,
            compute_dtype=self._compute_dtype,
        )
        self._update(gradient, now.learning_rate)
        self.tokens_since_fired = torch.where(objective.fired, 0, self.tokens_since_fired + len(x))
        self.step_number += 1
        self._steer(objective.l0)
        self._reset_dead(x)
        return {
            "loss": objective.loss,
            "reconstruction": objective.reconstruction,
            "sparsity": objective.sparsity,
            "auxiliary": objective.auxiliary,
            "l0": objective.l0,
            "dead_fraction": (self.tokens_since_fired >= self.config.dead_window).float().mean(),
            "n_dead_resets": float(self.n_dead_resets),
            **now._asdict(),
        }

    def trained_sae(self) -> SAE:
        """The SAE as it is now, acting on raw activations."""
        return folded(self.sae, self.scale)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        return {
            "sae": self.sae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "tokens_since_fired": self.tokens_since_fired,
            "step_number": self.step_number,
            "n_dead_resets": self.n_dead_resets,
            "coefficient_factor": self.coefficient_factor,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.sae.load_state_dict(state["sae"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.tokens_since_fired = state["tokens_since_fired"].to(self.tokens_since_fired.device)
        self.step_number = state["step_number"]
        self.n_dead_resets = state["n_dead_resets"]
        self.coefficient_factor = state["coefficient_factor"]

    @torch.no_grad()
    def _update(self, gradient: Gradients, learning_rate: float) -> None:
        along = torch.einsum("ij,ij->i", gradient["W_dec"], self.sae.W_dec)[:, None]
        gradient["W_dec"].addcmul_(along, self.sae.W_dec, value=-1)
        for name, parameter in self._trained.items():
            parameter.grad = _as_it_lies(name, gradient[name]).contiguous()
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        project(self.sae)

    def _steer(self, l0: Tensor) -> None:
        """Integral control in logarithms: L0 falls about as lambda^-1.5, so an error shrinks e-fold in a few dozen steps."""
        is_warm = self.step_number > self.config.sparsity_warmup_fraction * self.n_steps
        if self.config.target_l0 is None or not is_warm:
            return
        ratio = max(float(l0), _LEAST_L0) / self.config.target_l0
        factor = self.coefficient_factor * ratio**_STEERING_GAIN
        self.coefficient_factor = min(max(factor, 1 / _MOST_STEERING), _MOST_STEERING)

    def _reset_dead(self, x: Tensor) -> None:
        """Only while the learning rate is at its height: a latent reset later would have no time to settle."""
        is_settling = self.step_number > (1 - self.config.decay_fraction) * self.n_steps
        if not self.config.dead_reset or is_settling:
            return
        dead = (self.tokens_since_fired >= self.config.dead_window).nonzero()[:, 0]
        if len(dead):
            calibrate(self.sae, x, self.config.init_l0, dead)
            self.optimizer.state[self._trained["threshold"]]["exp_avg_sq"][:, dead] = 0
            self.tokens_since_fired[dead] = 0
            self.n_dead_resets += len(dead)


def _as_it_lies(name: str, tensor: Tensor) -> Tensor:
    """W_enc lies in memory transposed, and the fused optimiser is four times faster on contiguous parameters."""
    return tensor.T if name == "W_enc" else tensor
