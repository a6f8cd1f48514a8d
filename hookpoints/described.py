"""What a study says of its activations; needs no torch, so that a study is validated before torch is imported."""

from typing import NamedTuple

from hookpoints.config import HarvestConfig, ModelConfig
from hookpoints.corpus import CorpusConfig


class Described(NamedTuple):
    """Whose activations of what."""

    model: ModelConfig
    corpus: CorpusConfig
    harvest: HarvestConfig
