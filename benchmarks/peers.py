"""SAELens on the same weights and gates as ours."""

from typing import Any

import torch

from saes.sae import SAE


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
            d_in=sae.cfg.d_in, d_sae=sae.cfg.d_sae, l1_coefficient=sparsity_coefficient, normalize_activations="none",
            device=device,
        )
    )  # fmt: skip
    with torch.no_grad():
        theirs.W_enc.copy_(sae.W_enc)
        theirs.W_dec.copy_(sae.W_dec)
        theirs.b_dec.copy_(sae.b_dec)
        theirs.b_gate.copy_(-sae.threshold[0])
        theirs.b_mag.copy_(sae.bias[0])
        theirs.r_mag.copy_(sae.log_gain[0])
    config = SAETrainerConfig(
        total_training_samples=10**9, train_batch_size_samples=batch_size, lr=learning_rate, lr_end=learning_rate, device=device,
        autocast=autocast,
    )  # fmt: skip
    return SAETrainer(config, theirs, iter([]))
