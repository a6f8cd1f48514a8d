"""What the rows of a folder are a function of, beside the text: by content, not by name.

Devices, memory settings, paths and names are no part of it; nor are hookpoints and the number of tokens, in which a folder grows.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

from core.devices import dtype_name
from core.files import sha256_text
from core.schema import Schema
from hookpoints.config import HarvestConfig, StorageDtype

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from hookpoints.models import LanguageModel

_NO_CONTENT = ("_name_or_path", "_commit_hash", "transformers_version", "dtype", "torch_dtype", "architectures")


class ModelContents(Schema):
    """What a model computes."""

    weights: str
    """SHA-256 over its parameters and buffers, in `dtype`."""
    config: dict[str, Any]
    """Its configuration where it is not the default, without names and versions."""
    dtype: str
    """In which it was computed."""
    tokenizer: str
    """SHA-256 over its tokenizer's definition and special tokens."""


class RowSettings(Schema):
    """What a study says of rows, under its names."""

    context_length: int
    """Tokens per context."""
    held_out_fraction: float
    """Share of the documents kept for evaluation."""
    shard_tokens: int
    """Tokens per shard, in whole contexts."""
    dtype: StorageDtype
    """How rows are stored."""
    prepend_bos: list[int]
    """Tokens that start every piece."""
    drop_first_position: bool
    """Whether the first position of every piece is dropped."""
    drop_special_tokens: bool
    """Whether special tokens are."""
    norm_outlier_factor: float | None
    """As in the study."""
    seed: int
    """Of the document split and of the row order inside shards."""

    @property
    def shard_contexts(self) -> int:
        """Contexts per shard."""
        return self.shard_tokens // self.context_length


class HarvestContents(Schema):
    """What the rows of a folder are a function of, beside the text."""

    model: ModelContents
    """The model."""
    harvest: RowSettings
    """How text becomes rows."""


def row_settings(config: HarvestConfig, bos_token_ids: list[int]) -> RowSettings:
    """Of a study, where its pieces start with these tokens."""
    return RowSettings(
        context_length=config.context_length,
        held_out_fraction=config.held_out_fraction,
        shard_tokens=config.shard_contexts * config.context_length,
        dtype=config.dtype,
        prepend_bos=bos_token_ids,
        drop_first_position=config.drop_first_position,
        drop_special_tokens=config.drop_special_tokens,
        norm_outlier_factor=config.norm_outlier_factor,
        seed=config.seed,
    )


def model_contents(language_model: "LanguageModel") -> ModelContents:
    """Of a loaded model."""
    return ModelContents(
        weights=weights_hash(language_model),
        config=config_contents(language_model.model.config),
        dtype=dtype_name(language_model.model.dtype),
        tokenizer=tokenizer_hash(language_model.tokenizer),
    )


def weights_hash(language_model: "LanguageModel") -> str:
    """SHA-256 over every parameter and buffer: name, shape and bytes."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(language_model.model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def config_contents(config: "PreTrainedConfig") -> dict[str, Any]:
    """What a configuration says that is not the default of its kind: two models of the same weights may differ in it."""
    said = json.loads(json.dumps(config.to_diff_dict(), default=str))
    return {name: value for name, value in said.items() if name not in _NO_CONTENT}


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 over the whole definition (of a slow tokenizer: its vocabulary) and what its special tokens are for."""
    if tokenizer.is_fast:
        definition = tokenizer.backend_tokenizer.to_str()  # pyright: ignore
    else:
        definition = str(sorted(tokenizer.get_vocab().items()))
    roles = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
    return sha256_text(f"{definition}\n{sorted(tokenizer.all_special_ids)}\n{roles}")
