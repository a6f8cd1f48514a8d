"""What the YAML of an SAE study may say: one file -> one validated, frozen SAEStudy."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Optional, get_type_hints

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, create_model, model_validator
from pydantic_core import InitErrorDetails

from core.schema import ChosenBy, DeviceName, Schema, Seed, StudyPath, exactly
from hookpoints.config import HarvestConfig, ModelConfig
from hookpoints.corpus import CorpusConfig
from hookpoints.described import Described
from pipeline.study import Kind, Study, check_count, repeated
from saes.architectures import ARCHITECTURES
from saes.architectures.base import Architecture, own_fields
from saes.config import LearnerConfig

_STRICTER = {"target_l0": PositiveFloat}
"""Types of learner settings that a sweep checks where it says them."""


class Sweep(Schema):
    """SAEs of one architecture and width over lambda; each architecture adds its own settings."""

    architecture: str
    """One of `saes.architectures.ARCHITECTURES`."""
    d_sae: Annotated[int, Field(gt=0, le=2**26)]
    """Width: number of latents."""
    sparsity_coefficients: list[Annotated[float, Field(gt=0, le=1e6)]] = Field(min_length=1)
    """The lambdas of the sweep."""

    @property
    def kind(self) -> type[Architecture]:
        """The architecture."""
        return ARCHITECTURES[self.architecture]

    @property
    def own_settings(self) -> dict[str, Any]:
        """What the architecture adds."""
        return {field.name: getattr(self, field.name) for field in own_fields(self.kind)}

    @property
    def learner_settings(self) -> dict[str, Any]:
        """Learner settings that the sweep gives in place of the study's."""
        given = {name: getattr(self, name) for name in self.kind.learner_settings}
        return {name: value for name, value in given.items() if value is not None}


@cache
def sweep_schema(kind: type[Architecture]) -> type[Sweep]:
    """What a sweep of an architecture may say: its own settings, and the learner settings that mean something for it."""
    hints, of_learner = get_type_hints(kind), get_type_hints(LearnerConfig)
    fields: dict[str, Any] = {field.name: (hints[field.name], field.default) for field in own_fields(kind)}
    for name in kind.learner_settings:
        fields[name] = (Optional[_STRICTER.get(name, of_learner[name])], None)  # noqa: UP045 (of a type made here)
    return create_model(f"{kind.__name__}Sweep", __base__=Sweep, __doc__=kind.__doc__, **fields)


def _choose_sweep(value: Any) -> type[Sweep]:
    name = value.get("architecture") if isinstance(value, Mapping) else None
    if not isinstance(name, str):
        return Sweep
    if name not in ARCHITECTURES:
        expected = ", ".join(repr(one) for one in ARCHITECTURES)
        problem = InitErrorDetails(type="literal_error", loc=("architecture",), input=name, ctx={"expected": expected})
        raise ValidationError.from_exception_data("Sweep", [problem])
    return sweep_schema(ARCHITECTURES[name])


class TrainConfig(Schema):
    """Which SAEs to train, and how."""

    saes: list[Annotated[Sweep, ChosenBy(_choose_sweep)]] = Field(min_length=1)
    """Sweeps; each is trained on every hookpoint with every seed."""
    seeds: list[Seed] = Field(default=[0], min_length=1)
    """Seeds of the initial weights."""
    n_steps: Annotated[int, Field(gt=0, le=10**9)]
    """Steps of each SAE."""
    batch_size: Annotated[int, Field(ge=2, le=2**24)] = 1024
    """Rows per step. Small batches reach a given R2 from fewer rows; large ones keep an accelerator busy."""
    bank_size: PositiveInt = 8
    """SAEs of one hookpoint that train together; each costs memory for its weights three times over."""
    device: DeviceName = "auto"
    """Where to train."""
    data_seed: Seed = 0
    """Of the order in which shards are read; the same for every SAE, so that they see the same data."""
    log_every: PositiveInt = 25
    """Steps between lines of an SAE's metrics."""
    checkpoint_every: PositiveInt = 200
    """Steps between checkpoints."""
    learner: LearnerConfig = Field(default_factory=LearnerConfig)
    """Learning rate, schedules, thresholds."""


class EvalConfig(Schema):
    """How SAEs are measured."""

    min_fires: PositiveInt = 10
    """A latent is bipolar when it fires with each sign at least this often."""
    loss_tokens: Annotated[int, Field(gt=0, le=10**12)] | None = 50_000
    """Held-out tokens on which reconstructions are spliced into the model, for loss recovered and KL; null leaves that out."""
    device: DeviceName = "auto"
    """Where to evaluate; losses are measured where the model is (model.device)."""


class CompareConfig(Schema):
    """Two families to compare; each is named by settings of its sweep, as many as tell it apart."""

    a: dict[str, bool | int | float | str] = Field(min_length=1)
    """For example `{architecture: sa_gated, d_sae: 1152}`."""
    b: dict[str, bool | int | float | str] = Field(min_length=1)
    """What it is compared with."""


class SAESpec(NamedTuple):
    """One SAE of a study, before its hookpoint's width is known."""

    hook_name: str
    sweep: Sweep
    sparsity_coefficient: float
    seed: int
    n_steps: int

    @property
    def family(self) -> str:
        """Of SAEs that differ only in hookpoint, lambda and seed."""
        parts = [self.sweep.architecture, str(self.sweep.d_sae), *self.architecture(1).id_parts]
        given = self.sweep.learner_settings
        return "-".join([*parts, *(f"{name}_{exactly(value)}".lower() for name, value in given.items())])

    @property
    def sae_id(self) -> str:
        """Folder name: says everything in which SAEs of one study can differ."""
        numbers = f"lambda_{exactly(self.sparsity_coefficient)}-seed_{self.seed}-steps_{self.n_steps}"
        return f"{self.hook_name}-{self.family}-{numbers}"

    def architecture(self, d_in: int) -> Architecture:
        """Of the SAE on a hook of width ``d_in``."""
        return self.sweep.kind(d_in, self.sweep.d_sae, **self.sweep.own_settings)

    def learner_config(self, default: LearnerConfig) -> LearnerConfig:
        """How this SAE is trained: the study's settings, with the sweep's own in their place."""
        return replace(default, **self.sweep.learner_settings)

    def columns(self, default: LearnerConfig) -> dict[str, Any]:
        """What tells its family apart, by column of eval.csv."""
        return self.architecture(1).family_columns(self.learner_config(default))


class SAEStudy(Study):
    """A study of sparse autoencoders."""

    kind: Literal["saes"] = "saes"
    """What is studied."""
    activations: StudyPath | None = None
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
    compare: list[CompareConfig] | None = Field(default=None, min_length=1)
    """Families to compare; by default every signed one with every unsigned one of its hookpoint."""

    @model_validator(mode="after")
    def _saes_differ(self) -> "SAEStudy":
        check_count(
            "SAEs of a hookpoint", len(self.train.seeds), sum(len(s.sparsity_coefficients) for s in self.train.saes)
        )
        twice = repeated(spec.sae_id for spec in self.specs(["hook"]))
        if twice:
            raise ValueError(f"train.saes describes the same SAE twice: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _comparisons_are_of_families(self) -> "SAEStudy":
        families = [spec.columns(self.train.learner) for spec in self.specs(["hook"])]
        for number, pair in enumerate(self.compare or []):
            for side, selector in (("a", pair.a), ("b", pair.b)):
                if not any(family.items() >= selector.items() for family in families):
                    names = sorted({name for family in families for name in family})
                    raise ValueError(
                        f"compare.{number}.{side}: no SAE of the study has {selector}; name a sweep by {', '.join(names)}"
                    )
        return self

    @property
    def activations_path(self) -> Path:
        """The folder of the activations."""
        return Path(self.activations) if self.activations else self.run_path / "activations"

    @property
    def described(self) -> Described:
        """What it says of its activations."""
        return Described(self.model, self.corpus, self.harvest)

    @property
    def selectors(self) -> list[tuple[dict[str, Any], dict[str, Any]]] | None:
        """Pairs to compare; None for the default ones."""
        return None if self.compare is None else [(pair.a, pair.b) for pair in self.compare]

    def specs(self, hook_names: list[str]) -> list[SAESpec]:
        """Every SAE of the study, by hookpoint, sweep, lambda, seed."""
        return [
            SAESpec(hook_name, sweep, coefficient, seed, self.train.n_steps)
            for hook_name in hook_names
            for sweep in self.train.saes
            for coefficient in sweep.sparsity_coefficients
            for seed in self.train.seeds
        ]


SAES = Kind("saes", SAEStudy, "pipeline.studies.saes.stages")
