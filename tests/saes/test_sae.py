import pytest
import torch

from saes.architectures import Gated, SignAwareGated, architecture_of
from saes.io import load_sae, read_sae, save_sae
from saes.sae import SAE, folded
from tests.saes.common import VARIANTS, random_sae

X = torch.randn(200, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 2


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Gated(8, 32), 4 * 16 * 8 + 6 * 16 + 8),
        (SignAwareGated(8, 16, "full"), 2 * 16 * 8 + 8 + 3 * 16),
        (SignAwareGated(8, 16, "magnitude"), 2 * 16 * 8 + 8 + 4 * 16),
        (SignAwareGated(8, 16, "none"), 2 * 16 * 8 + 8 + 6 * 16),
    ],
)
def test_parameter_counts_are_those_of_the_method(config, expected):
    assert config.n_params == expected
    assert sum(parameter.numel() for parameter in SAE(config).parameters()) == expected


def test_gated_is_its_published_formula():
    """pi = z + b_gate, f = 1[pi > 0] relu(exp(r_mag) z + b_mag), with b_gate = -theta."""
    sae = random_sae(VARIANTS[0])
    z = (X - sae.b_dec) @ sae.W_enc
    pi = z - sae.threshold[0]
    f = (pi > 0) * torch.relu(sae.log_gain[0].exp() * z + sae.bias[0])
    assert torch.equal(sae.encode(X), f)
    torch.testing.assert_close(sae(X), f @ sae.W_dec + sae.b_dec)


@pytest.mark.parametrize("variant", VARIANTS)
def test_signs(variant):
    latents = random_sae(variant).encode(X)
    assert bool((latents > 0).any())
    is_two_sided = variant[0] == "sa_gated" and not variant[2]
    assert bool((latents < 0).any()) == is_two_sided


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_sided_view_is_lossless(variant):
    sae = random_sae(variant)
    view = sae.one_sided_view()
    signed, split = sae.encode(X), view.encode(X)
    width = sae.cfg.d_sae
    assert split.shape[1] == (2 * width if sae.cfg.is_signed else width)
    assert bool((split >= 0).all())
    positive, negative = split[:, :width], split[:, width:]
    torch.testing.assert_close(positive, signed.clamp_min(0))
    if sae.cfg.is_signed:
        torch.testing.assert_close(negative, (-signed).clamp_min(0))
    torch.testing.assert_close(view.decode(split), sae(X))


def test_one_sided_view_needs_thresholds_cut_off_at_zero():
    """exp(r) theta + b alone, as often written, would let a negative magnitude through where relu gives 0."""
    sae = random_sae(VARIANTS[1], threshold=0.3)
    with torch.no_grad():
        sae.bias.fill_(-1.0)
    uncut = torch.cat([sae.log_gain[0].exp() * sae.threshold[0] + sae.bias[0]] * 2)
    assert bool((uncut < 0).any())
    view = sae.one_sided_view()
    torch.testing.assert_close(view.decode(view.encode(X)), sae(X))
    wrong = view._replace(threshold=uncut)
    assert not torch.allclose(wrong.decode(wrong.encode(X)), sae(X))


@pytest.mark.parametrize("variant", VARIANTS)
def test_folding_the_scale(variant):
    sae, scale = random_sae(variant), 0.37
    raw = folded(sae.float(), scale)
    x = X.float()
    torch.testing.assert_close(raw.encode(x), sae.encode(scale * x) / scale, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(raw(x), sae(scale * x) / scale, rtol=1e-4, atol=1e-4)
    assert torch.equal(raw.W_dec, sae.W_dec)


@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_and_loaded(variant, tmp_path):
    sae = random_sae(variant, dtype=torch.float32)
    save_sae(tmp_path / "sae", sae, {"hook_name": "blocks.1.hook_mlp_out"})
    loaded = load_sae(tmp_path / "sae")
    assert loaded.cfg == sae.cfg
    assert torch.equal(loaded(X.float()), sae(X.float()))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert read_sae(tmp_path / "sae").metadata == {"hook_name": "blocks.1.hook_mlp_out"}


def test_another_width_is_refused():
    with pytest.raises(ValueError, match=r"d_in 12, given are rows of width 7 \(shape \(3, 7\)\)"):
        random_sae(VARIANTS[0]).encode(torch.zeros(3, 7))


def test_folder_without_an_sae(tmp_path):
    with pytest.raises(ValueError, match=r"holds no complete SAE \(no cfg.json\)"):
        load_sae(tmp_path)


def test_weights_that_do_not_fit(tmp_path):
    save_sae(tmp_path, random_sae(VARIANTS[0], dtype=torch.float32), {})
    save_sae(tmp_path / "other", random_sae(VARIANTS[0], d_in=7, dtype=torch.float32), {})
    (tmp_path / "other" / "weights.safetensors").rename(tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights.safetensors does not hold the weights"):
        load_sae(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architecture": "topk", "d_in": 1, "d_sae": 1}, "architecture is 'topk'; allowed are gated, sa_gated"),
        ({"architecture": "gated", "d_in": 0, "d_sae": 1}, "d_in is 0; it must be at least 1"),
        ({"architecture": "sa_gated", "d_in": 1, "d_sae": 1, "tying": "half"}, "tying is 'half'"),
    ],
)
def test_impossible_configs(values, message):
    with pytest.raises(ValueError, match=message):
        architecture_of(values)
