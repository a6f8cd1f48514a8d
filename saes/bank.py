"""Many SAEs learning from one stream: a batch is read, dequantised and scaled once for all of them."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from saes.learner import SAELearner


class Bank:
    """A learner made of SAE learners on the same hookpoint.

    Members do not touch each other: each learns bit for bit what it would learn alone. A member whose loss is no longer
    finite is stopped and named in ``stopped``; the others go on.

    Args:
        members: learners by name, all with the same scale and device.
        observe: called with a name after that member's step, so that a display moves while a slow member's turn lasts.

    Raises ValueError when the members' scales differ: they would not share one stream.
    """

    def __init__(self, members: Mapping[str, SAELearner], observe: Callable[[str], object] | None = None) -> None:
        self.members = dict(members)
        self.metrics: dict[str, dict[str, float]] = {}
        """Of each member's last step with a finite loss."""
        self.stopped: dict[str, str] = {}
        """Why a member was stopped."""
        self.observe = observe or (lambda name: None)
        scales = {member.scale for member in self.members.values()}
        if len(scales) != 1:
            raise ValueError(
                f"members of a bank share one scale, given are {sorted(scales)}; use one bank per hookpoint"
            )
        self._scale = scales.pop()

    @property
    def active(self) -> list[str]:
        """Members that are still learning."""
        return [name for name in self.members if name not in self.stopped]

    def step(self, batch: Tensor) -> dict[str, Tensor | float]:
        """One update of every active member on raw activations ``[batch, d_in]``; ``loss`` is their mean.

        NaN when no member is left.
        """
        device = next(iter(self.members.values())).sae.b_dec.device
        x = batch.to(device, torch.float32) * self._scale
        losses = []
        for name in self.active:
            metrics = {key: float(value) for key, value in self.members[name].step_scaled(x).items()}
            if math.isfinite(metrics["loss"]):
                self.metrics[name] = metrics
                losses.append(metrics["loss"])
            else:
                self.stopped[name] = self._why(name, metrics["loss"])
            self.observe(name)
        return {"loss": sum(losses) / len(losses) if losses else math.nan, "n_active": len(losses)}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        members = {name: member.state_dict() for name, member in self.members.items()}
        return {"members": members, "stopped": dict(self.stopped), "metrics": dict(self.metrics)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`; members that are no longer here (already saved) are passed over."""
        for name, member in self.members.items():
            member.load_state_dict(state["members"][name])
        self.stopped = {name: why for name, why in state["stopped"].items() if name in self.members}
        self.metrics = {name: metrics for name, metrics in state["metrics"].items() if name in self.members}

    def _why(self, name: str, loss: float) -> str:
        last = ", ".join(f"{key} {value:.4g}" for key, value in self.metrics.get(name, {}).items()) or "none"
        step = self.members[name].step_number
        return f"{name}: loss is {loss} at step {step}; last finite metrics: {last}. Lower its learning rate or lambda"
