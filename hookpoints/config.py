"""What a study can say of harvests and labels; needs no torch, so that a study is validated before torch is imported."""

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, model_validator

from core.schema import Schema
from hookpoints.sites import HookpointConfig

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, Split] = ("train", "held_out")
StorageDtype = Literal["bfloat16", "float16", "float32", "int8"]
TokenLabel = Literal["starts_with_capital", "starts_word", "has_digit", "is_punctuation", "in_code_line"]
TOKEN_LABELS: tuple[TokenLabel, ...] = get_args(TokenLabel)


class HarvestConfig(Schema):
    """What to read and how to store it."""

    hookpoints: list[HookpointConfig] = Field(min_length=1)
    """Where to capture; all of them in one forward pass."""
    n_tokens: int = Field(gt=0)
    """Tokens that the model reads, both splits together; the harvest ends earlier if the corpus does."""
    held_out_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the documents kept for evaluation."""
    context_length: int = Field(default=256, ge=2)
    """Tokens per context."""
    batch_tokens: int = Field(default=4096, gt=0)
    """Tokens per forward pass."""
    shard_tokens: int = Field(default=65536, gt=0)
    """Tokens per shard."""
    dtype: StorageDtype = "bfloat16"
    """How rows are stored."""
    prepend_bos: bool = False
    """Start every piece of a document with the tokenizer's BOS token (its row is dropped as a special token)."""
    drop_first_position: bool = True
    """Drop the first position of every piece: an attention sink (docs/method.md, "Rows")."""
    drop_special_tokens: bool = True
    """Drop the rows of BOS, EOS and their like."""
    norm_outlier_factor: float | None = Field(default=10.0, gt=1)
    """Rows over this many times the median norm are left out of training and R2; null keeps every row."""
    seed: int = Field(default=0, ge=0)
    """Of the document split and of the row order inside shards."""

    @property
    def batch_contexts(self) -> int:
        """Contexts per forward pass."""
        return max(1, self.batch_tokens // self.context_length)

    @property
    def shard_contexts(self) -> int:
        """Contexts per shard: whole forward passes, so that a shard does not depend on the one before."""
        return max(1, self.shard_tokens // (self.context_length * self.batch_contexts)) * self.batch_contexts

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
    csv: str | None = None
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
        return self.token if self.token is not None else Path(str(self.csv)).stem

    @property
    def positive_strata(self) -> tuple[int, ...]:
        """Strata of `hookpoints.labels.row_strata` that answer yes."""
        return (1,) if self.xor is None else (1, 2)

    @property
    def n_strata(self) -> int:
        """2, or 4 combinations."""
        return 2 if self.xor is None else 4
