"""Tiny random models of every family that transformers builds in a few lines."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

N_LAYERS = 4
VOCABULARY = 96
WINDOW = 8
_COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_EXPERTS: dict[str, Any] = {
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_LATENT_ATTENTION: dict[str, Any] = _EXPERTS | {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
_WINDOW = {"sliding_window": WINDOW}
_ENCODER_DECODER = {"d_model": 32, "decoder_layers": 4, "decoder_attention_heads": 4, "decoder_ffn_dim": 64}
_POST_NORM = {"attn_out": "self_attn", "mlp_out": "fc2"}
_BERT = {"attn_out": "attention.output.dense", "mlp_out": "output.dense"}


class Family(NamedTuple):
    """How a family is built, and where the general truth does not hold."""

    settings: Mapping[str, Any] = {}
    attention: str = r"attn|attention"
    """Parameters of attention, by name inside the block."""
    modules: Mapping[str, str] | None = None
    """Of blocks that normalise the stream itself: whose output is what a site is."""
    hidden_states_begin_after: int = 0
    """Blocks that ran before the first of the ``hidden_states``."""


def _names(text: str) -> list[str]:
    return text.split()


_PLAIN = _names("""
    apertus arcee aria_text biogpt bitnet bloom cohere cpmant ctrl cwm deepseek_v4 diffllama doge ernie4_5 flex_olmo gemma
    gemma4_unified_text glm glm4 gpt-sw3 gpt2 gpt_bigcode gpt_neox gpt_neox_japanese granite_swa granitemoe granitemoe_swa helium
    hrm_text hunyuan_v1_dense hunyuan_v1_moe hyperclovax internlm3 iquestcoder jais2 jetmoe llama ministral ministral3 mpt
    nanochat nemotron olmo olmo2 olmo_hybrid opt persimmon phi phimoe qwen3 seed_oss smollm3 stablelm vaultgemma xglm xlm
""")
_MIXTURES = _names("""
    afmoe bailing_hybrid beam cohere2_moe ernie4_5_moe exaone_moe flint glm4_moe hy_v3 kolibri1 laguna mellum mimo_v2_flash
    minimax_m2 olmoe qwen2_moe qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next solar_open
""")
_WINDOWED = _names("cohere2 exaone4 gemma2 gemma3_text mistral mixtral modernbert-decoder olmo3 phi3 starcoder2")
_LATENT = _names("axk1 deepseek_v2 deepseek_v3 glm4_moe_lite minicpm3 youtu")
FAMILIES: dict[str, Family] = {
    **{name: Family() for name in _PLAIN},
    **{name: Family(_EXPERTS) for name in _MIXTURES},
    **{name: Family(_LATENT_ATTENTION) for name in _LATENT},
    **{name: Family(_WINDOW) for name in _WINDOWED},
    **{name: Family({"is_decoder": True}, modules=_BERT) for name in ["bert", "roberta", "camembert", "electra"]},
    **{name: Family({"is_decoder": True}) for name in ["megatron-bert", "roberta-prelayernorm"]},
    **{name: Family(hidden_states_begin_after=1) for name in ["mamba", "falcon_mamba"]},
    **{name: Family({"rotary_dim": 4}) for name in ["codegen", "gptj"]},
    **{
        name: Family({**_ENCODER_DECODER, "is_decoder": True}, modules=_POST_NORM)
        for name in ["bart", "marian", "mvp", "blenderbot-small", "plbart"]
    },
    **{name: Family(_ENCODER_DECODER) for name in ["blenderbot", "mbart", "pegasus", "whisper"]},
    "bamba": Family({**_MAMBA, "attn_layer_indices": [1, 3]}),
    "bert (encoder)": Family(modules=_BERT),
    "dbrx": Family(
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 4,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
            "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        }
    ),
    "falcon": Family({"alibi": False}),
    "falcon (ALiBi)": Family({"alibi": True}),
    "falcon (one norm)": Family({"new_decoder_architecture": False, "parallel_attn": False}),
    "falcon_h1": Family({**_MAMBA, "mamba_d_ssm": 64, "attention_out_multiplier": 0.5, "ssm_out_multiplier": 0.7}),
    "gemma3n_text": Family(
        {
            "laurel_rank": 8,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": VOCABULARY,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "activation_sparsity_pattern": [0.0] * 4,
        }
    ),
    "gemma4_text": Family({"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY}),
    "gpt_neo": Family({"attention_types": [[["global", "local"], 2]], "window_size": WINDOW}),
    "gpt_neox (sequential)": Family({"use_parallel_residual": False}),
    "gpt_oss": Family({**_EXPERTS, **_WINDOW}),
    "granite": Family({"residual_multiplier": 0.22, "attention_multiplier": 0.3, "embedding_multiplier": 2.0}),
    "granitemoehybrid": Family(
        {
            **_MAMBA,
            **_EXPERTS,
            "layer_types": ["mamba", "attention"] * 2,
            "shared_intermediate_size": 32,
            "residual_multiplier": 0.22,
        }
    ),
    "granitemoeshared": Family({"residual_multiplier": 0.22, "shared_intermediate_size": 32}),
    "jamba": Family({"attn_layer_period": 2, "attn_layer_offset": 1}),
    "lfm2": Family({"layer_types": ["conv", "full_attention"] * 2}),
    "llama4_text": Family({**_EXPERTS, "attention_chunk_size": WINDOW, "interleave_moe_layer_step": 1}),
    "lfm3": Family(attention=r"attn"),
    "mamba2": Family({"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8}, hidden_states_begin_after=1),
    "minimax": Family(modules={"attn_out": "self_attn", "mlp_out": "mlp"}),
    "openai-gpt": Family(modules={"attn_out": "attn", "mlp_out": "mlp"}),
    "qwen2": Family({**_WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    "recurrent_gemma": Family({"block_types": ("recurrent", "attention")}, attention=r"temporal"),
    "rwkv": Family({"rescale_every": 0}, hidden_states_begin_after=1),
    "stablelm (parallel)": Family({"use_parallel_residual": True}),
    "xlnet": Family({"d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64}),
    "xlstm": Family(),
    "zamba2": Family(
        {
            "layers_block_type": ["mamba", "hybrid"] * 2,
            "mamba_d_state": 8,
            "n_mamba_heads": 8,
            "mamba_headdim": 8,
            "mamba_ngroups": 1,
            "num_mem_blocks": 1,
        }
    ),
}


def tiny(name: str) -> PreTrainedModel:
    """The family's model with random weights."""
    kind = CONFIG_MAPPING[name.partition(" ")[0]]
    known = set(inspect.signature(kind.__init__).parameters) | set(getattr(kind, "attribute_map", {}))
    known |= {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    settings = {key: value for key, value in _COMMON.items() if key in known}
    settings |= {key: value for key, value in FAMILIES[name].settings.items() if key in known}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(kind(**settings))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
            elif parameter.ndim == 1:  # no bias is zero and no scale is one by accident
                parameter.data.mul_(torch.empty_like(parameter).uniform_(0.8, 1.2)).add_(
                    torch.randn_like(parameter), alpha=0.02
                )
    return model.eval().requires_grad_(False)
