"""Pythia-1B and SmolLM3-3B at their true shape with random weights: three sites, two shards, peak memory and rate."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel, SmolLM3Config, SmolLM3ForCausalLM

from hookpoints.config import HarvestConfig, LocalModel
from hookpoints.corpus import FilesCorpus
from hookpoints.described import Described
from hookpoints.harvest import harvest
from hookpoints.models import LanguageModel, resolve_dtype
from hookpoints.shards import ActivationDataset
from hookpoints.sites import HookpointConfig, Site
from pipeline.memory import peak_memory_bytes, reset_peak_memory
from tests.models import tiny_tokenizer

SITES: list[Site] = ["resid_post", "mlp_out", "attn_out"]


def pythia_1b() -> PreTrainedModel:
    config = GPTNeoXConfig(
        hidden_size=2048,
        num_hidden_layers=16,
        num_attention_heads=8,
        intermediate_size=8192,
        vocab_size=50304,
        max_position_embeddings=2048,
        use_parallel_residual=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.25},
    )
    return GPTNeoXForCausalLM(config)


def smollm3_3b() -> PreTrainedModel:
    config = SmolLM3Config(
        hidden_size=2048,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=4,
        intermediate_size=11008,
        vocab_size=128256,
        max_position_embeddings=65536,
        no_rope_layer_interval=4,
        tie_word_embeddings=True,
    )
    return SmolLM3ForCausalLM(config)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("build", "n_params", "middle"), [(pythia_1b, 1_011_781_632, 7), (smollm3_3b, 3_075_098_624, 17)]
)
def test_two_shards_of_three_sites(
    tmp_path: Path, corpus_file: Path, capsys, build: Callable[[], PreTrainedModel], n_params: int, middle: int
):
    dtype = resolve_dtype("auto", torch.device("cpu"))
    torch.set_default_dtype(dtype)
    try:
        model = build().eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)
    assert sum(parameter.numel() for parameter in model.parameters()) == n_params
    language_model = LanguageModel(model, tiny_tokenizer(), build.__name__, "random")
    config = HarvestConfig(
        hookpoints=[HookpointConfig(site=site) for site in SITES],
        n_tokens=4096,
        held_out_fraction=0.5,
        context_length=256,
        batch_tokens=1024,
        shard_tokens=2048,
    )
    reset_peak_memory()
    started = time.monotonic()
    n_tokens = 0
    study = Described(LocalModel(local="random"), FilesCorpus(files=[str(corpus_file)]), config)
    for progress in harvest(language_model, study, tmp_path, {}):
        n_tokens = progress.n_tokens
    seconds = time.monotonic() - started
    with capsys.disabled():
        weights = n_params * dtype.itemsize / 1e9
        print(
            f"\n{build.__name__} {dtype}: {n_tokens / seconds:.0f} tokens/s with its checksum and shards, "
            f"peak memory {peak_memory_bytes() / 1e9:.2f} GB ({weights:.2f} GB of weights)"
        )
    dataset = ActivationDataset(tmp_path)
    assert len(dataset.view.shards) == 2
    assert dataset.hook_names == [f"blocks.{middle}.hook_{site}" for site in SITES]
    for name in dataset.hook_names:
        rows = dataset.read(name, 0).activations
        assert rows.shape[1] == 2048
        assert bool(rows.isfinite().all())
    assert peak_memory_bytes() < n_params * dtype.itemsize + 3e9
