import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import saes.support
from saes.architectures.gated import (
    DENSE_ABOVE_DENSITY,
    dense_gradients,
    dense_objective,
    gradients,
    gradients_on_support,
)
from saes.support import Gates, find_support
from tests.saes.common import VARIANTS, random_sae


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-300))


def on_support(*arguments, **settings):
    found = gradients_on_support(*arguments, **settings)
    assert found is not None
    return found


def gates(sae) -> Gates:
    return Gates(sae.W_enc, sae.threshold, two_sided=sae.cfg.is_signed)


def data(batch: int, d_in: int, seed: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(batch, d_in, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


@settings(max_examples=60, deadline=None)
@given(
    variant=st.sampled_from(VARIANTS),
    auxiliary_loss=st.booleans(),
    batch=st.integers(1, 24),
    d_in=st.integers(1, 10),
    d_sae=st.integers(1, 16),
    threshold=st.sampled_from([0.0, 0.5, 1.5, 3.0, 100.0]),
    seed=st.integers(0, 10_000),
)
def test_sparse_equals_dense_autograd(variant, auxiliary_loss, batch, d_in, d_sae, threshold, seed):
    """Every density from everything on to an empty support, float64, in every parameter and every reported value."""
    sae = random_sae(variant, d_in, d_sae, seed, threshold)
    x = data(batch, d_in, seed + 1)
    expected, expected_gradient = dense_gradients(sae, x, 0.7, auxiliary_loss=auxiliary_loss)
    got, gradient = on_support(sae, x, 0.7, auxiliary_loss=auxiliary_loss)
    for name, value in expected._asdict().items():
        torch.testing.assert_close(getattr(got, name), value, rtol=1e-10, atol=1e-12, msg=name)
    assert gradient.keys() == expected_gradient.keys()
    for name, value in expected_gradient.items():
        assert gradient[name].shape == value.shape
        assert float((gradient[name] - value).norm()) <= 1e-10 * max(float(value.norm()), 1e-3), name


@pytest.mark.parametrize("compute_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_sparse_in_float32(variant, compute_dtype):
    """Screening with a bfloat16 product included: it is as exact as the float32 product."""
    sae = random_sae(variant, 64, 256, threshold=2.5, dtype=torch.float32)
    exact = random_sae(variant, 64, 256, threshold=2.5)
    exact.load_state_dict(sae.state_dict())
    x = data(256, 64, 5)
    _, expected = dense_gradients(exact, x, 2.0)
    _, got = on_support(sae, x.float(), 2.0, compute_dtype=compute_dtype)
    for name, value in expected.items():
        assert relative_difference(got[name].double(), value) < 1e-5, name


@pytest.mark.parametrize("threshold", [0.0, 4.0])
def test_either_path_gives_the_same(threshold):
    sae, x = random_sae(VARIANTS[1], threshold=threshold), data(64, 12, 0)
    density = float((((x - sae.b_dec) @ sae.W_enc).abs() > sae.threshold[0]).double().mean())
    assert (density > DENSE_ABOVE_DENSITY) == (threshold == 0.0)
    _, expected = dense_gradients(sae, x, 0.7)
    _, got = gradients(sae, x, 0.7)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value)


def test_auxiliary_loss_does_not_train_the_decoder():
    sae, x = random_sae(VARIANTS[0]), data(32, 12, 0)
    _, with_it = dense_gradients(sae, x, 0.0)
    _, without = dense_gradients(sae, x, 0.0, auxiliary_loss=False)
    torch.testing.assert_close(with_it["W_dec"], without["W_dec"])
    assert not torch.allclose(with_it["W_enc"], without["W_enc"])


def test_objective_by_hand():
    """One latent along the only axis: z = 2, theta = 0.5, f = 2, p = 1.5, x = 3, b_dec = 1."""
    sae = random_sae(VARIANTS[1], 1, 1)
    with torch.no_grad():
        sae.W_enc.fill_(1.0)
        sae.W_dec.fill_(1.0)
        sae.b_dec.fill_(1.0)
        sae.threshold.fill_(0.5)
        sae.log_gain.zero_()
        sae.bias.zero_()
        objective = dense_objective(sae, torch.tensor([[3.0]], dtype=torch.float64), 10.0)
    assert float(objective.reconstruction) == 0.0
    assert float(objective.sparsity) == pytest.approx(15.0)
    assert float(objective.auxiliary) == pytest.approx(0.25)
    assert float(objective.loss) == pytest.approx(15.25)
    assert float(objective.l0) == 1.0


@settings(max_examples=30, deadline=None)
@given(
    variant=st.sampled_from(VARIANTS),
    d_in=st.integers(1, 40),
    threshold=st.sampled_from([0.0, 0.5, 1.5, 3.0]),
    seed=st.integers(0, 10_000),
)
def test_screening_finds_every_open_gate(variant, d_in, threshold, seed):
    """The bfloat16 product proposes, float32 decides: the support is that of an exact product, up to float32 rounding of z."""
    sae = random_sae(variant, d_in, 64, seed, threshold, dtype=torch.float32)
    centred = 3 * data(50, d_in, seed + 1, torch.float32) - sae.b_dec
    screened = find_support(gates(sae), centred, torch.bfloat16)
    exact = find_support(gates(sae.double()), centred.double(), torch.float32)
    assert screened is not None
    assert exact is not None
    z = centred.double() @ sae.W_enc
    is_close_call = ((z.abs() - sae.threshold[:1]).abs() < 1e-4) | ((z.abs() - sae.threshold[-1:]).abs() < 1e-4)
    difference = _as_matrix(screened, z.shape) ^ _as_matrix(exact, z.shape)
    assert not bool((difference & ~is_close_call).any())
    torch.testing.assert_close(screened.z.double(), z[_as_matrix(screened, z.shape)], rtol=1e-4, atol=1e-4)


def _as_matrix(support, shape):
    matrix = torch.zeros(shape, dtype=torch.bool)
    matrix[torch.repeat_interleave(torch.arange(len(matrix)), support.row_starts.diff()), support.latents] = True
    return matrix


def test_chunks_change_nothing(monkeypatch):
    sae, x = random_sae(VARIANTS[3], threshold=0.5), data(32, 12, 0)
    _, whole = on_support(sae, x, 0.7)
    monkeypatch.setitem(saes.support._CHUNK_ENTRIES, "cpu", 64)
    _, chunked = on_support(sae, x, 0.7)
    for name, value in whole.items():
        torch.testing.assert_close(chunked[name], value, rtol=1e-12, atol=1e-12)


def test_more_open_gates_than_the_kernels_count(monkeypatch):
    sae, x = random_sae(VARIANTS[1], threshold=0.5), data(32, 12, 0)
    monkeypatch.setattr(saes.support, "MAX_ENTRIES", 10)
    assert gradients_on_support(sae, x, 0.7) is None
    _, expected = dense_gradients(sae, x, 0.7)
    _, got = gradients(sae, x, 0.7)
    torch.testing.assert_close(got["W_enc"], expected["W_enc"])
