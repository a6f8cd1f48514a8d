"""A study of sparse autoencoders: one YAML file -> one validated, frozen RunConfig; and what every kind of study has."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from hookpoints.corpus import CorpusConfig
from hookpoints.harvest import HarvestConfig
from hookpoints.models import ModelConfig
from core.schema import Schema
from saes.learner import LearnerConfig
from saes.sae import Architecture, SAEConfig, Tying

_OVERRIDES = ("auxiliary_loss", "threshold_init", "dead_reset", "target_l0")
"""Learner settings that a sweep may set for itself."""


class _Sweep(Schema):
    d_sae: PositiveInt
    """Width: number of latents."""
    sparsity_coefficients: list[PositiveFloat] = Field(min_length=1)
    """The lambdas of the sweep."""
    auxiliary_loss: bool | None = None
    """Overrides `learner.auxiliary_loss` for this sweep: false is the ablation."""
    threshold_init: Literal["calibrated", "constant"] | None = None
    """Overrides `learner.threshold_init` for this sweep."""
    dead_reset: bool | None = None
    """Overrides `learner.dead_reset` for this sweep."""
    target_l0: PositiveFloat | None = None
    """Steer each lambda, from the coefficient given, towards this L0."""


class GatedSweep(_Sweep):
    """Gated SAEs over lambda."""

    architecture: Literal["gated"]
    """The baseline."""


class SignAwareGatedSweep(_Sweep):
    """Sign-aware gated SAEs over lambda."""

    architecture: Literal["sa_gated"]
    """Two-sided gate, signed magnitude."""
    tying: Tying = "full"
    """What the two sides share: none, magnitude (r, b), full (theta too)."""
    one_sided: bool = False
    """The ablation without a negative side."""


class TrainConfig(Schema):
    """Which SAEs to train, and how."""

    saes: list[Annotated[GatedSweep | SignAwareGatedSweep, Field(discriminator="architecture")]] = Field(min_length=1)
    """Sweeps; each is trained on every hookpoint with every seed."""
    seeds: list[int] = Field(default=[0], min_length=1)
    """Seeds of the initial weights."""
    n_steps: PositiveInt
    """Steps of each SAE."""
    batch_size: Annotated[int, Field(ge=2)] = 1024
    """Rows per step. Small batches reach a given R2 from fewer rows; large ones keep an accelerator busy."""
    bank_size: PositiveInt = 8
    """SAEs of one hookpoint that train together; each costs memory for its weights three times over."""
    device: str = "auto"
    """Where to train."""
    data_seed: Annotated[int, Field(ge=0)] = 0
    """Of the order in which shards are read; the same for every SAE, so that they see the same data."""
    log_every: PositiveInt = 25
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: PositiveInt = 200
    """Steps between checkpoints."""
    learner: LearnerConfig = Field(default_factory=LearnerConfig)
    """Learning rate, schedules, thresholds."""


class EvalConfig(Schema):
    """How SAEs are measured."""

    min_fires: PositiveInt = 10
    """A latent is bipolar when it fires with each sign at least this often."""
    device: str = "auto"
    """Where to evaluate."""


class SAESpec(NamedTuple):
    """One SAE of a study, before its hookpoint's width is known."""

    hook_name: str
    sweep: GatedSweep | SignAwareGatedSweep
    sparsity_coefficient: float
    seed: int

    @property
    def sae_id(self) -> str:
        """Folder name: says everything in which SAEs of one study can differ."""
        sweep = self.sweep
        parts = [self.hook_name, sweep.architecture, str(sweep.d_sae)]
        if isinstance(sweep, SignAwareGatedSweep):
            parts += [f"tying_{sweep.tying}"] + (["one_sided"] if sweep.one_sided else [])
        for name in _OVERRIDES:
            value = getattr(sweep, name)
            parts += [] if value is None else [f"{name}_{value}".lower()]
        return "-".join([*parts, f"lambda_{self.sparsity_coefficient:g}", f"seed_{self.seed}"])

    def sae_config(self, d_in: int) -> SAEConfig:
        """The SAE on a hook of width ``d_in``."""
        architecture: Architecture = self.sweep.architecture
        if isinstance(self.sweep, SignAwareGatedSweep):
            return SAEConfig(architecture, d_in, self.sweep.d_sae, self.sweep.tying, self.sweep.one_sided)
        return SAEConfig(architecture, d_in, self.sweep.d_sae)

    def learner_config(self, default: LearnerConfig) -> LearnerConfig:
        """How this SAE is trained: the study's settings, with the sweep's own in their place."""
        given = {name: getattr(self.sweep, name) for name in _OVERRIDES if getattr(self.sweep, name) is not None}
        return replace(default, **given)


class Study(Schema):
    """What every study has."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the study; letters, digits, dots, dashes."""
    run_dir: str | None = None
    """Where everything is written; `runs/<name>` by default."""

    @property
    def run_path(self) -> Path:
        """The run directory."""
        return Path(self.run_dir or f"runs/{self.name}").expanduser()


class RunConfig(Study):
    """A study of sparse autoencoders."""

    kind: Literal["saes"] = "saes"
    """What is studied: saes, networks or xor."""
    activations: str | None = None
    """Where activations are; `<run_dir>/activations` by default. Studies may share one."""
    model: ModelConfig
    """`embedded: smollm2-135m`, `hub: <id>` or `local: <folder>`."""
    corpus: CorpusConfig
    """`embedded: python-docs`, `hub: <id>` or `files: [...]`."""
    harvest: HarvestConfig
    """What to read and how to store it."""
    train: TrainConfig
    """Which SAEs to train, and how."""
    eval: EvalConfig = Field(default_factory=EvalConfig)
    """How SAEs are measured."""

    @model_validator(mode="after")
    def _saes_differ(self) -> "RunConfig":
        ids = [spec.sae_id for spec in self.specs(["hook"])]
        twice = sorted({sae_id for sae_id in ids if ids.count(sae_id) > 1})
        if twice:
            raise ValueError(f"train.saes describes the same SAE twice: {', '.join(twice)}")
        return self

    @property
    def activations_path(self) -> Path:
        """The folder of the activations."""
        return Path(self.activations).expanduser() if self.activations else self.run_path / "activations"

    def specs(self, hook_names: list[str]) -> list[SAESpec]:
        """Every SAE of the study, by hookpoint, sweep, lambda, seed."""
        return [
            SAESpec(hook_name, sweep, coefficient, seed)
            for hook_name in hook_names
            for sweep in self.train.saes
            for coefficient in sweep.sparsity_coefficients
            for seed in self.train.seeds
        ]
