"""SAELens' Gated SAE and trainer: on the weights of ours, and on its own."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from saes.architectures import Gated
from saes.sae import SAE, folded


def saelens_trainer(
    sae: SAE, sparsity_coefficient: float, batch_size: int, learning_rate: float, *, autocast: bool
) -> Any:
    """SAELens' own trainer of a Gated SAE, started from ours; ``trainer.step(x)`` is one training step."""
    from sae_lens.config import SAETrainerConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.saes.gated_sae import GatedTrainingSAE, GatedTrainingSAEConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore[reportMissingImports]

    device = str(sae.b_dec.device)
    theirs = GatedTrainingSAE(
        GatedTrainingSAEConfig(
            d_in=sae.cfg.d_in,
            d_sae=sae.cfg.d_sae,
            l1_coefficient=sparsity_coefficient,
            normalize_activations="none",
            device=device,
        )
    )
    with torch.no_grad():
        theirs.W_enc.copy_(sae.W_enc)
        theirs.W_dec.copy_(sae.W_dec)
        theirs.b_dec.copy_(sae.b_dec)
        theirs.b_gate.copy_(-sae.threshold[0])
        theirs.b_mag.copy_(sae.bias[0])
        theirs.r_mag.copy_(sae.log_gain[0])
    config = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=batch_size,
        lr=learning_rate,
        lr_end=learning_rate,
        device=device,
        autocast=autocast,
    )
    return SAETrainer(config, theirs, iter([]))


def saelens_gated_trainer(
    *,
    d_in: int,
    d_sae: int,
    mean: Tensor,
    sparsity_coefficient: float,
    learning_rate: float,
    batch_size: int,
    n_steps: int,
    warmup: float,
    decay: float,
    sparsity_warmup: float,
    data_provider: Iterator[Tensor],
) -> Any:
    """SAELens' trainer with its own initial weights; warm-ups and decay are shares of ``n_steps``; ``fit()`` runs it."""
    from sae_lens.config import SAETrainerConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.saes.gated_sae import GatedTrainingSAE, GatedTrainingSAEConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore[reportMissingImports]

    theirs = GatedTrainingSAE(
        GatedTrainingSAEConfig(
            d_in=d_in,
            d_sae=d_sae,
            l1_coefficient=sparsity_coefficient,
            l1_warm_up_steps=int(sparsity_warmup * n_steps),
            normalize_activations="none",
        )
    )
    with torch.no_grad():
        theirs.b_dec.copy_(mean)
    config = SAETrainerConfig(
        total_training_samples=n_steps * batch_size,
        train_batch_size_samples=batch_size,
        lr=learning_rate,
        lr_end=learning_rate,
        lr_warm_up_steps=int(warmup * n_steps),
        lr_decay_steps=int(decay * n_steps),
        adam_beta1=0.0,
    )
    return SAETrainer(config, theirs, data_provider)


def as_our_sae(theirs: Any, scale: float) -> SAE:
    """SAELens' Gated SAE, trained on activations times ``scale``, as ours on raw ones; with unit decoder rows."""
    ours = SAE(Gated(theirs.cfg.d_in, theirs.cfg.d_sae), torch.Generator().manual_seed(0))
    with torch.no_grad():
        norms = theirs.W_dec.norm(dim=1)
        ours.W_dec.copy_(theirs.W_dec / norms[:, None])
        ours.W_enc.copy_(theirs.W_enc)
        ours.b_dec.copy_(theirs.b_dec)
        ours.threshold[0] = -theirs.b_gate
        ours.bias[0] = theirs.b_mag * norms
        ours.log_gain[0] = theirs.r_mag + norms.log()
    return folded(ours, scale)
