"""What a study costs, before anything runs."""

from typing import NamedTuple

from hookpoints.models import ModelShape, model_shape
from hookpoints.sites import Hookpoint, resolve_hookpoint
from pipeline.config import RunConfig


class Costs(NamedTuple):
    """Counts of a whole study."""

    hookpoints: list[Hookpoint]
    d_in: int
    model_params: int
    n_tokens: int
    disk_bytes: int
    """Activations, at most."""
    n_saes: int
    sae_params: int
    """Of all SAEs together."""
    sae_bytes: int
    """Of all SAE folders, float32."""
    n_steps: int
    """Of all SAEs together."""
    epochs: float
    """How often each SAE sees the training rows."""
    encoder_product_flops: float
    """Of the one dense product per step, all steps and SAEs: the bound of training."""


def estimate_costs(config: RunConfig) -> Costs:
    """Costs from the study and the model's configuration; no weights are read."""
    shape: ModelShape = model_shape(config.model)
    hookpoints = [resolve_hookpoint(hookpoint, shape.n_layers) for hookpoint in config.harvest.hookpoints]
    specs = config.specs([hookpoint.name for hookpoint in hookpoints])
    widths = [spec.sae_config(shape.d_model) for spec in specs]
    train = config.train
    n_params = sum(cfg.n_params for cfg in widths)
    train_rows = config.harvest.n_contexts["train"] * config.harvest.context_length
    return Costs(
        hookpoints=hookpoints,
        d_in=shape.d_model,
        model_params=shape.n_params,
        n_tokens=config.harvest.n_tokens,
        disk_bytes=config.harvest.disk_bytes(shape.d_model),
        n_saes=len(specs),
        sae_params=n_params,
        sae_bytes=4 * n_params,
        n_steps=len(specs) * train.n_steps,
        epochs=train.n_steps * train.batch_size / train_rows,
        encoder_product_flops=float(sum(2 * train.n_steps * train.batch_size * cfg.d_in * cfg.d_sae for cfg in widths)),
    )


def describe_costs(config: RunConfig, costs: Costs) -> list[tuple[str, str]]:
    """Names and values for people."""
    return [
        ("run directory", str(config.run_path)),
        ("hookpoints", ", ".join(hookpoint.name for hookpoint in costs.hookpoints)),
        ("model", f"{costs.model_params / 1e6:,.0f} M parameters, d_in {costs.d_in}"),
        ("tokens", f"{costs.n_tokens:,}"),
        ("activations on disk", f"{costs.disk_bytes / 1e9:,.2f} GB at most ({config.harvest.dtype})"),
        (
            "SAEs",
            f"{costs.n_saes}, {costs.sae_params / 1e6:,.1f} M parameters in all, {costs.sae_bytes / 1e9:,.2f} GB",
        ),
        (
            "steps",
            f"{costs.n_steps:,} ({config.train.n_steps:,} per SAE), {costs.epochs:.1f} passes over the training rows",
        ),
        ("encoder products", f"{costs.encoder_product_flops:.2e} floating-point operations"),
    ]
