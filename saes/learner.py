"""One SAE learning by gradient steps: what `core.trainer.fit` drives."""

from typing import Any

import torch
from torch import Tensor

from saes.architectures.base import Architecture, Gradients
from saes.config import FROZEN_PARAMETERS, LearnerConfig, schedule
from saes.sae import SAE, folded
from saes.support import resolve_compute_dtype

_STEERING_GAIN = 0.06
"""Exponent of L0 / target_l0 by which lambda moves in one step."""
_MOST_STEERING = 1000.0
"""lambda stays within this factor of the coefficient given."""
_LEAST_L0 = 1e-3


class SAELearner:
    """Trains one SAE on raw activations, which it multiplies by a constant.

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
        cfg: Architecture,
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
        self.sae = sae.to(device)
        self._compute_dtype = resolve_compute_dtype(config.compute_dtype, torch.device(device))
        frozen = FROZEN_PARAMETERS[config.frozen]
        self._trained = {
            name: _as_it_lies(name, parameter.detach())
            for name, parameter in self.sae.named_parameters()
            if name not in frozen
        }
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
        if self.step_number == 0:
            with torch.no_grad():
                self.sae.cfg.start(self.sae, x, self.config)
        coefficient = self.sparsity_coefficient * self.coefficient_factor
        now = schedule(self.config, coefficient, self.step_number, self.n_steps)
        objective, gradient = self.sae.cfg.gradients(
            self.sae, x, now.sparsity_coefficient, self.config, self._compute_dtype
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
        self.sae.cfg.project(self.sae)

    def _steer(self, l0: Tensor) -> None:
        """Integral control in logarithms: L0 falls about as lambda^-1.5, so an error shrinks e-fold in a few dozen steps."""
        is_warm = self.step_number > self.config.sparsity_warmup_fraction * self.n_steps
        if self.config.target_l0 is None or not is_warm:
            return
        ratio = max(float(l0), _LEAST_L0) / self.config.target_l0
        factor = self.coefficient_factor * ratio**_STEERING_GAIN
        self.coefficient_factor = min(max(factor, 1 / _MOST_STEERING), _MOST_STEERING)

    @torch.no_grad()
    def _reset_dead(self, x: Tensor) -> None:
        """Only while the learning rate is at its height: a latent reset later would have no time to settle."""
        is_settling = self.step_number > (1 - self.config.decay_fraction) * self.n_steps
        if not self.config.dead_reset or is_settling:
            return
        dead = (self.tokens_since_fired >= self.config.dead_window).nonzero()[:, 0]
        moved = self.sae.cfg.reset(self.sae, x, dead, self.config) if len(dead) else ()
        for name in moved:
            self.optimizer.state[self._trained[name]]["exp_avg_sq"][..., dead] = 0
        if moved:
            self.tokens_since_fired[dead] = 0
            self.n_dead_resets += len(dead)


def _as_it_lies(name: str, tensor: Tensor) -> Tensor:
    """W_enc lies in memory transposed, and the fused optimiser is four times faster on contiguous parameters."""
    return tensor.T if name == "W_enc" else tensor
