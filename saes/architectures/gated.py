"""Gated (Rajamanoharan et al. 2024) and sign-aware gated SAEs (Wieciech et al. 2026): one family (docs/method.md, "Gates").

A Gated SAE is the one-sided member: its gate pi = z + b_gate opens where z exceeds theta = -b_gate, and p = relu(pi),
f = 1[pi > 0] relu(exp(r_mag) z + b_mag) are the positive side of the sign-aware formulas. So one objective and one set of
gradients serve both; only the sign constraint on theta differs (docs/decisions/0001-one-family.md).

    L = ||x - (f W_dec + b_dec)||^2 + lambda sum_i (p+_i + p-_i) + ||x - (q sg(W_dec) + sg(b_dec))||^2

sums over d_in, means over the batch; sg is the stop-gradient (Gated SAE paper, equation 8). `dense_objective` is the definition;
`gradients_on_support` computes the same gradients on the open gates alone (docs/method.md, "Sparse gradients").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from saes.architectures.base import Architecture, Objective

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from saes.architectures.base import Gradients, Parameters
    from saes.config import LearnerConfig
    from saes.support import Gates, Support
    from saes.views import JumpReLUView

Tying = Literal["none", "magnitude", "full"]
DENSE_ABOVE_DENSITY = 0.15
"""Share of open gates above which the dense formula is faster (docs/results/train_step.md)."""


@dataclass(frozen=True)
class _GateFamily(Architecture):
    """What both members share: theta (`threshold`), r (`log_gain`) and b (`bias`), the positive side first; one row serves both
    where they are tied, or where there is no negative side."""

    learner_settings = ("auxiliary_loss", "threshold_init", "frozen", "dead_reset", "target_l0")
    has_sign_constraint: ClassVar[bool]
    """Whether theta >= 0."""

    tying: Tying = "full"
    """What the two sides share: none, magnitude (r, b), full (theta too)."""
    one_sided: bool = False
    """The ablation without a negative side."""

    @property
    def vectors(self) -> dict[str, tuple[int, ...]]:
        """Two rows where the sides have vectors of their own."""
        n_thresholds = 2 if self.is_signed and self.tying != "full" else 1
        n_magnitudes = 2 if self.is_signed and self.tying == "none" else 1
        return {
            "threshold": (n_thresholds, self.d_sae),
            "log_gain": (n_magnitudes, self.d_sae),
            "bias": (n_magnitudes, self.d_sae),
        }

    def encode(self, sae: Parameters, x: Tensor) -> Tensor:
        """f of z = W_enc (x - b_dec)."""
        return activate(sae, sae.pre_activations(x))

    def fold(self, sae: Parameters, scale: float) -> None:
        """The family is homogeneous: dividing b_dec, theta and b by the scale divides every latent and the reconstruction by
        it, so both weight matrices (and the decoder's unit norm) stay as they are."""
        for parameter in (sae.b_dec, sae.threshold, sae.bias):
            parameter /= scale

    def one_sided_view(self, sae: Parameters) -> JumpReLUView:
        """JumpReLU of width 2 d_sae when two-sided: latent i is the positive side, i + d_sae the negative one."""
        import torch

        from saes.views import JumpReLUView

        signs = (1.0, -1.0) if self.is_signed else (1.0,)
        vectors = (sae.threshold, sae.log_gain, sae.bias)
        sides = [(sign, *(vector[0 if sign > 0 else -1] for vector in vectors)) for sign in signs]
        return JumpReLUView(
            W_enc=torch.cat([sign * sae.W_enc * log_gain.exp() for sign, _, log_gain, _ in sides], dim=1).detach(),
            b_enc=torch.cat([bias for *_, bias in sides]).detach(),
            threshold=torch.cat([(r.exp() * theta + b).clamp_min(0) for _, theta, r, b in sides]).detach(),
            W_dec=torch.cat([sign * sae.W_dec for sign, *_ in sides]).detach(),
            b_dec=sae.b_dec.detach().clone(),
        )

    def start(self, sae: Parameters, x: Tensor, learner: LearnerConfig) -> None:
        """theta: constant, or so that each latent fires on ``init_l0 / d_sae`` of the rows."""
        sae.threshold.fill_(learner.constant_threshold)
        if learner.threshold_init == "calibrated":
            calibrate(sae, x, learner.init_l0)

    def gradients(
        self,
        sae: Parameters,
        x: Tensor,
        sparsity_coefficient: float,
        learner: LearnerConfig,
        compute_dtype: torch.dtype,
    ) -> tuple[Objective, Gradients]:
        """On the support, or densely where many gates are open."""
        return gradients(
            sae, x, sparsity_coefficient, auxiliary_loss=learner.auxiliary_loss, compute_dtype=compute_dtype
        )

    def project(self, sae: Parameters) -> None:
        """Unit decoder rows; theta >= 0 for the sign-aware member."""
        sae.normalise_decoder()
        if self.has_sign_constraint:
            sae.threshold.clamp_min_(0)

    def reset(self, sae: Parameters, x: Tensor, dead: Tensor, learner: LearnerConfig) -> tuple[str, ...]:
        """theta is calibrated anew (SA-GSAE, second version; for both members, our choice)."""
        calibrate(sae, x, learner.init_l0, dead)
        return ("threshold",)


@dataclass(frozen=True)
class Gated(_GateFamily):
    """The baseline."""

    name = "gated"
    title = "Gated"
    has_sign_constraint = False

    tying: Tying = field(default="full", init=False)
    one_sided: bool = field(default=False, init=False)

    @property
    def is_signed(self) -> bool:
        """Never."""
        return False


@dataclass(frozen=True)
class SignAwareGated(_GateFamily):
    """Two-sided gate, signed magnitude."""

    name = "sa_gated"
    title = "SA-GSAE"
    has_sign_constraint = True

    @property
    def is_signed(self) -> bool:
        """Unless it is the one-sided ablation."""
        return not self.one_sided


def activate(sae: Parameters, z: Tensor) -> Tensor:
    """Latents f from the encoder product ``z [..., d_sae]``."""
    from saes.activation import bi_jump_relu, jump_relu

    if sae.cfg.is_signed:
        return bi_jump_relu(z, sae.threshold, sae.log_gain, sae.bias)
    return jump_relu(z, sae.threshold[0], sae.log_gain[0], sae.bias[0])


def calibrate(sae: Parameters, x: Tensor, init_l0: float, latents: Tensor | None = None) -> None:
    """Set thresholds so that each latent fires on ``init_l0 / d_sae`` of the rows of ``x [batch, d_in]``.

    ``latents``: indices to set; all by default.
    """
    import torch

    from saes.thresholds import firing_thresholds

    chosen = torch.arange(sae.cfg.d_sae, device=x.device) if latents is None else latents
    with torch.no_grad():
        found = firing_thresholds(
            sae.W_enc, x - sae.b_dec, chosen, init_l0 / sae.cfg.d_sae, two_sided=sae.cfg.is_signed
        )
        sae.threshold[:, chosen] = found
        sae.cfg.project(sae)


def dense_objective(
    sae: Parameters, x: Tensor, sparsity_coefficient: float, *, auxiliary_loss: bool = True
) -> Objective:
    """The objective on a batch ``x [batch, d_in]``, differentiable in every parameter of ``sae``: the definition."""
    from saes.activation import signed_gate
    from saes.dense import mean_squared_norm

    z = sae.pre_activations(x)
    f = activate(sae, z)
    q = signed_gate(z, sae.threshold, two_sided=sae.cfg.is_signed)
    reconstruction = mean_squared_norm(x - sae.decode(f))
    sparsity = sparsity_coefficient * q.abs().sum() / len(x)
    auxiliary = reconstruction.new_zeros(())
    if auxiliary_loss:
        auxiliary = mean_squared_norm(x - (q @ sae.W_dec.detach() + sae.b_dec.detach()))
    is_on = f != 0
    l0 = is_on.sum().to(x.dtype) / len(x)
    return Objective(reconstruction + sparsity + auxiliary, reconstruction, sparsity, auxiliary, l0, is_on.any(dim=0))


def dense_gradients(
    sae: Parameters, x: Tensor, sparsity_coefficient: float, *, auxiliary_loss: bool = True
) -> tuple[Objective, Gradients]:
    """The objective and its gradient in every parameter, by autograd."""
    from saes.dense import autograd_gradients

    return autograd_gradients(sae, lambda: dense_objective(sae, x, sparsity_coefficient, auxiliary_loss=auxiliary_loss))


def gradients(
    sae: Parameters,
    x: Tensor,
    sparsity_coefficient: float,
    *,
    auxiliary_loss: bool = True,
    compute_dtype: torch.dtype | None = None,
) -> tuple[Objective, Gradients]:
    """The objective and its gradients on ``x [batch, d_in]``: on the support, or densely where many gates are open.

    ``compute_dtype`` bfloat16 screens candidates with the cheap product; the result is exact either way.
    """
    most = int(DENSE_ABOVE_DENSITY * len(x) * sae.cfg.d_sae)
    found = gradients_on_support(sae, x, sparsity_coefficient, auxiliary_loss, compute_dtype, most)
    return found or dense_gradients(sae, x, sparsity_coefficient, auxiliary_loss=auxiliary_loss)


def gradients_on_support(
    sae: Parameters,
    x: Tensor,
    sparsity_coefficient: float,
    auxiliary_loss: bool = True,
    compute_dtype: torch.dtype | None = None,
    most: int | None = None,
) -> tuple[Objective, Gradients] | None:
    """As `dense_gradients`, on the open gates; None when more than ``most`` of them, or than the kernels count, are open."""
    import torch

    from saes.dense import mean_squared_norm
    from saes.sparse import by_latent, sampled_products, weighted_sums
    from saes.support import Gates, find_support

    with torch.no_grad():
        centred = x - sae.b_dec
        gates = Gates(sae.W_enc, sae.threshold, two_sided=sae.cfg.is_signed)
        support = find_support(gates, centred, compute_dtype or torch.float32, most)
        if support is None:
            return None
        batch, d_sae = len(x), sae.cfg.d_sae
        vectors = _VectorIndex(gates, support)
        size = support.z * vectors.sign
        gain = vectors.take(sae.log_gain).exp()
        p = size - vectors.take(sae.threshold)
        magnitude = gain * size + vectors.take(sae.bias)
        is_on = magnitude > 0
        f = magnitude.clamp_min(0) * vectors.sign

        residual = weighted_sums(sae.W_dec, support.latents, support.row_starts, f).sub_(centred)
        products = sampled_products(residual, sae.W_dec, support.row_starts, support.latents)
        dmagnitude = products * is_on * vectors.sign * (2 / batch)
        dp = torch.full_like(p, sparsity_coefficient / batch)
        auxiliary = residual.new_zeros(())
        if auxiliary_loss:
            soft = weighted_sums(sae.W_dec, support.latents, support.row_starts, p * vectors.sign).sub_(centred)
            products = sampled_products(soft, sae.W_dec, support.row_starts, support.latents)
            dp += products * vectors.sign * (2 / batch)
            auxiliary = mean_squared_norm(soft)
        dsize = gain * dmagnitude
        dz = (dsize + dp) * vectors.sign

        transposed = by_latent(support.latents, support.row_starts, d_sae)
        dz_by_latent = torch.zeros(d_sae, dtype=dz.dtype, device=dz.device).index_add_(0, support.latents, dz)
        gradient = {
            "W_dec": transposed.weighted_sum(residual, (2 / batch) * f),
            "W_enc": transposed.weighted_sum(centred, dz).T,
            "b_dec": (2 / batch) * residual.sum(dim=0) - sae.W_enc @ dz_by_latent,
            "threshold": -vectors.total(dp, sae.threshold),
            "log_gain": vectors.total(dsize * size, sae.log_gain),
            "bias": vectors.total(dmagnitude, sae.bias),
        }
        reconstruction, sparsity = mean_squared_norm(residual), sparsity_coefficient * p.sum() / batch
        fired = torch.zeros(d_sae, dtype=torch.bool, device=x.device)
        fired[support.latents[is_on]] = True
        loss, l0 = reconstruction + sparsity + auxiliary, is_on.sum().to(x.dtype) / batch
        return Objective(loss, reconstruction, sparsity, auxiliary, l0, fired), gradient


class _VectorIndex:
    """Which entry of a ``[1 or 2, d_sae]`` vector each open gate uses, and sums back into it."""

    def __init__(self, gates: Gates, support: Support) -> None:
        self._one_row = self._two_rows = support.latents
        self.sign: Tensor | float = 1.0
        if gates.two_sided:
            d_sae = gates.threshold.shape[1]
            self.sign = support.z.sign()
            self._two_rows = (support.latents + d_sae).where(support.z < 0, support.latents)

    def take(self, vector: Tensor) -> Tensor:
        return vector.flatten().index_select(0, self._index(vector))

    def total(self, values: Tensor, vector: Tensor) -> Tensor:
        return vector.new_zeros(vector.numel()).index_add_(0, self._index(vector), values).view_as(vector)

    def _index(self, vector: Tensor) -> Tensor:
        return self._one_row if len(vector) == 1 else self._two_rows
