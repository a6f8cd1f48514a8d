"""What a study costs, before anything runs."""

from typing import NamedTuple

from hookpoints.models import ModelShape, model_shape
from hookpoints.sites import Hookpoint, resolve_hookpoint
from pipeline.studies.saes.study import RunConfig
from pipeline.studies.networks.study import ActivationData, AnyStudy, CSVData, NetworkStudy, XORStudy


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


def describe_costs(study: AnyStudy) -> list[tuple[str, str]]:
    """What a study costs, names and values for people."""
    match study:
        case RunConfig():
            return _describe_saes(study, estimate_costs(study))
        case NetworkStudy():
            return _describe_networks(study)
        case XORStudy():
            return _describe_descents(study)


def _describe_networks(study: NetworkStudy) -> list[tuple[str, str]]:
    data = study.data
    facts = [
        ("run directory", str(study.run_path)),
        ("tasks", ", ".join(study.tasks)),
        ("networks", f"{len(study.specs())}: {len(study.train.methods)} methods, betas, seeds"),
    ]
    if isinstance(data, ActivationData):
        shape = model_shape(data.model)
        facts += [
            ("model", f"{shape.n_params / 1e6:,.0f} M parameters, d_in {shape.d_model}"),
            ("tokens", f"{data.harvest.n_tokens:,}"),
            (
                "activations on disk",
                f"{data.harvest.disk_bytes(shape.d_model) / 1e9:,.2f} GB at most ({data.harvest.dtype})",
            ),
        ]
    if isinstance(data, CSVData):
        return [*facts, ("rows", data.path)]
    n = data.n_train
    return [*facts, ("memory of a linear step", f"{8 * n * n / 1e9:,.2f} GB (n x n, {n:,} training rows)")]


def _describe_descents(study: XORStudy) -> list[tuple[str, str]]:
    data, n_runs = study.data, len(study.run_ids())
    n_features, n_products = data.n_features, (data.n_train + data.n_neurons) * (data.n_train + data.n_test)
    return [
        ("run directory", str(study.run_path)),
        ("descents", f"{n_runs} of {study.train.n_steps:,} steps"),
        ("inner products", f"{2.0 * n_runs * n_products * n_features:.2e} floating-point operations"),
        (
            "steps",
            f"{2.0 * n_runs * study.train.n_steps * data.n_neurons * data.n_train**2:.2e} floating-point operations",
        ),
    ]


def _describe_saes(config: RunConfig, costs: Costs) -> list[tuple[str, str]]:
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
