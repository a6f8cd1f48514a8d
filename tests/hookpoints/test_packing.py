"""What an activation may not depend on is seen, however little or far; and what does not matter is not."""

import functools

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hookpoints.capture import ActivationCapture
from hookpoints.packing import Packing, prove_packing
from hookpoints.sites import Hookpoint, Site
from tests.hookpoints.families import tiny
from tests.hookpoints.toys import attention, model_of, usual
from tests.models import tiny_llama

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def proved(
    model: PreTrainedModel, context_length: int = 64, site: Site = "resid_post", prefix: tuple[int, ...] = ()
) -> Packing:
    with ActivationCapture(model, [Hookpoint(site, 2 if site == "resid_post" else 1)], context_length) as capture:
        return prove_packing(capture, prefix)


def looking_ahead(n_tokens: int) -> PreTrainedModel:
    def forward(block, hidden_states, **kwargs):
        after = usual(block, hidden_states, **kwargs)
        return after + torch.cat([after[:, n_tokens:], torch.zeros_like(after[:, :n_tokens])], dim=1)

    return model_of(forward)


def masked(sees, **attributes) -> PreTrainedModel:
    """Attention as ``sees(positions, block) -> [batch, length, length]`` says."""

    def forward(block, hidden_states, position_ids, **kwargs):
        mask = torch.where(sees(position_ids, block), 0.0, -1e30).to(hidden_states.dtype)[:, None]
        return usual(block, hidden_states, **kwargs | {"attention_mask": mask, "position_ids": position_ids})

    model = model_of(forward)
    model.config._attn_implementation = "eager"
    return model


def is_of_one_piece(positions: Tensor) -> Tensor:
    piece = (positions == 0).cumsum(1)
    return piece[:, :, None] == piece[:, None, :]


def block_causal(size: int):
    """Tokens see all of their block."""
    return lambda positions, _: (
        is_of_one_piece(positions) & (positions[:, :, None] // size >= positions[:, None, :] // size)
    )


def block_causal_in_rows(size: int):
    """The same without a look at positions."""
    return lambda positions, block: block_causal(size)(torch.arange(positions.shape[1]).expand_as(positions), block)


def prefix_seen(size: int):
    """The first tokens see each other."""
    return lambda positions, _: (
        is_of_one_piece(positions) & ((positions[:, :, None] >= positions[:, None, :]) | (positions[:, None, :] < size))
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n_tokens", "context_length"), [(1, 2), (1, 3), (2, 3), (1, 64), (2, 64), (6, 64), (40, 128), (100, 128)]
)
def test_looking_ahead(n_tokens, context_length, dtype):
    with pytest.raises(ValueError, match=r"not causal|computes a piece otherwise in a longer row"):
        proved(looking_ahead(n_tokens).to(dtype), context_length)


@pytest.mark.parametrize("size", [2, 3, 4, 8, 16, 48])
@pytest.mark.parametrize("kind", [block_causal, block_causal_in_rows, prefix_seen])
def test_attention_that_looks_both_ways(kind, size):
    with pytest.raises(ValueError, match="not causal"):
        proved(masked(kind(size)))


@pytest.mark.filterwarnings("ignore")  # of transformers' own configurations
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_encoder_with_small_weights(dtype):
    model = tiny("bert (encoder)")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(0.1)
    with pytest.raises(ValueError, match="not causal"):
        proved(model.to(dtype))


def looking_back(n_tokens: int) -> PreTrainedModel:
    """Exactly so far, whatever the piece."""

    def forward(block, hidden_states, **kwargs):
        after = usual(block, hidden_states, **kwargs)
        length = after.shape[1]
        return (
            after + 0.3 * torch.cat([torch.zeros_like(after[:, :1]).expand(-1, n_tokens, -1), after], dim=1)[:, :length]
        )

    return model_of(forward)


def seeing_the_first_token(weight: float) -> PreTrainedModel:
    return model_of(
        lambda block, hidden_states, **kwargs: usual(block, hidden_states, **kwargs) + weight * hidden_states[:, :1]
    )


def seeing_bos() -> PreTrainedModel:
    """Every token sees each token 1, in whatever piece."""
    seen: dict[str, Tensor] = {}

    def sees(positions: Tensor, _) -> Tensor:
        is_bos = (seen["input_ids"] == 1)[:, None, :]
        place = torch.arange(positions.shape[1])
        return (place[:, None] >= place) & (is_of_one_piece(positions) | is_bos)

    model = masked(sees)
    body = model.model.forward  # pyright: ignore

    @functools.wraps(body)
    def forward(input_ids, **kwargs):
        seen["input_ids"] = input_ids
        return body(input_ids=input_ids, **kwargs)

    model.model.forward = forward  # pyright: ignore
    return model


@pytest.mark.parametrize("dtype", DTYPES)
def test_pieces_that_see_each_other_are_not_packed(dtype):
    models = [seeing_the_first_token(weight) for weight in (1e-5, 1e-2)] + [looking_back(60), looking_back(200)]
    for model in models:
        model.config.max_position_embeddings = 256
        packing = proved(model.to(dtype), 256)
        assert not packing.is_packed
        assert "lets a piece see another one" in packing.reason
    assert not proved(seeing_bos().to(dtype), 64, prefix=(1,)).is_packed


def test_positions_that_do_not_start_anew_are_not_packed():
    """Nothing leaks, but a piece is computed as if it stood later: a stream that grows with the place in the row."""

    def forward(block, hidden_states, **kwargs):
        place = torch.arange(hidden_states.shape[1])[:, None]
        return usual(block, hidden_states, **kwargs) + 0.05 * place * block.extra.weight[0]

    packing = proved(model_of(forward))
    assert not packing.is_packed
    assert "computes packed pieces otherwise than alone" in packing.reason


def test_what_stands_beside_or_behind_a_row():
    def mean_of_the_batch(block, hidden_states, **kwargs):
        return usual(block, hidden_states, **kwargs) - hidden_states.mean(dim=0, keepdim=True)

    def length(block, hidden_states, **kwargs):
        return usual(block, hidden_states, **kwargs) * (1 + 0.01 * hidden_states.shape[1])

    for forward, where in ((mean_of_the_batch, "beside other rows"), (length, "in a longer row")):
        with pytest.raises(ValueError, match=f"computes a piece otherwise {where}"):
            proved(model_of(forward))


def test_what_does_not_depend_on_tokens():
    def forward(block, hidden_states, position_ids, **kwargs):
        kwargs = kwargs | {"position_ids": position_ids}
        mid = hidden_states + attention(block, hidden_states, kwargs)
        return mid + block.mlp(position_ids[..., None].to(mid.dtype).expand_as(mid))

    with pytest.raises(ValueError, match="does not depend on its tokens"):
        proved(model_of(forward), site="mlp_out")


def test_rotary_frequencies_that_follow_the_longest_position_are_refused():
    model = tiny_llama()
    model.config.max_position_embeddings = 256
    model.config.rope_parameters = {
        "rope_type": "dynamic",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 128,
    }
    assert proved(model, 128).is_packed
    with pytest.raises(ValueError, match=r"depend on the longest position.*set harvest.context_length to 128 or less"):
        proved(model, 256)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("context_length", [2, 3, 4, 9, 10, 33, 128])
def test_a_plain_model_is_packed_at_any_context_length(context_length, dtype):
    for prefix in ((), (1,), (1, 3)):
        assert proved(tiny_llama().to(dtype), context_length, prefix=prefix).is_packed


@pytest.mark.filterwarnings("ignore")  # of transformers' own configurations
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["mixtral", "phimoe", "olmoe", "granitemoe", "qwen3_moe"])
def test_experts_that_rounding_chooses_otherwise_do_no_harm(name, dtype):
    for site in ("resid_post", "mlp_out", "attn_out"):
        assert proved(tiny(name).to(dtype), 128, site).is_packed


@pytest.mark.filterwarnings("ignore")  # of transformers' own configurations
@pytest.mark.parametrize("seed", range(4))
def test_an_expert_chosen_otherwise_is_no_dependence_on_what_follows(seed):
    """Seed 3 in float16: one among the first tokens, and every token after it is another one then."""
    model = tiny("granitemoe")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    assert proved(model.half()).rounding < 0.1
