import copy

import pytest
import torch

from hookpoints.shards import HookStatistics
from saes.architectures import Gated
from saes.architectures.gated import calibrate, dense_gradients
from saes.config import LearnerConfig, schedule
from saes.learner import SAELearner
from saes.sae import SAE
from saes.thresholds import firing_quantile
from tests.saes.common import VARIANTS, architecture

D_IN, D_SAE = 16, 48


def sparse_signed_data(n_rows: int, seed: int = 0) -> torch.Tensor:
    """Rows made of few directions with either sign, off centre and not of unit scale."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(24, D_IN, generator=torch.Generator().manual_seed(42))
    weights = torch.randn(n_rows, 24, generator=generator) * (torch.rand(n_rows, 24, generator=generator) < 0.1)
    return 7.0 * (weights @ directions) + 3.0


def learner(variant=VARIANTS[1], n_steps: int = 200, coefficient: float = 0.3, **config) -> SAELearner:
    x = sparse_signed_data(4096)
    return SAELearner(
        architecture(variant, D_IN, D_SAE),
        LearnerConfig(**{"init_l0": 6.0, "learning_rate": 3e-3, **config}),
        sparsity_coefficient=coefficient,
        n_steps=n_steps,
        seed=0,
        mean=x.mean(dim=0),
        scale=D_IN**0.5 / float(x.norm(dim=1).mean()),
    )


def train(one: SAELearner, steps: int, first: int = 0) -> dict:
    metrics = {}
    for step in range(first, first + steps):
        metrics = one.step(sparse_signed_data(512, seed=step))
    return metrics


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_reconstructs_held_out_rows(variant):
    one = learner(variant)
    train(one, 200)
    sae = one.trained_sae()
    x = sparse_signed_data(2000, seed=10_000)
    with torch.no_grad():
        latents = sae.encode(x)
        explained = 1 - (x - sae.decode(latents)).pow(2).sum() / (x - x.mean(dim=0)).pow(2).sum()
    assert explained > 0.7
    assert (latents != 0).float().sum(dim=1).mean() < 14


@pytest.mark.parametrize("variant", VARIANTS[:2])
@pytest.mark.parametrize(
    ("frozen", "still"), [("decoder", ["W_dec"]), ("encoder", ["W_enc"]), ("dictionary", ["W_dec", "W_enc"])]
)
def test_what_is_frozen_stays_and_the_rest_learns(variant, frozen, still):
    one = learner(variant, frozen=frozen, dead_window=1000)
    before = {name: value.clone() for name, value in one.sae.state_dict().items()}
    train(one, 30)
    resumed = learner(variant, frozen=frozen, dead_window=1000)
    resumed.load_state_dict(copy.deepcopy(one.state_dict()))
    metrics = train(one, 30, first=30)
    assert train(resumed, 30, first=30) == metrics
    moved = {name: float((value - before[name]).abs().max()) for name, value in one.sae.state_dict().items()}
    assert all(moved[name] < 1e-6 for name in still)
    assert all(change > 1e-3 for name, change in moved.items() if name not in still)
    first = learner(variant, frozen=frozen, dead_window=1000).step(sparse_signed_data(512, seed=99))
    assert metrics["reconstruction"] < 0.9 * first["reconstruction"]


@pytest.mark.parametrize("variant", VARIANTS[:2])
@pytest.mark.parametrize(("factor", "offset"), [(1.0, 40.0), (300.0, 0.0), (0.01, -2.0)])
def test_lambda_means_the_same_wherever_the_rows_lie(variant, factor, offset):
    """Adding a constant vector to every row, or multiplying all by a constant, changes neither L0 nor R²."""
    direction = torch.randn(D_IN, generator=torch.Generator().manual_seed(9))

    def l0_and_r_squared(factor: float, offset: float) -> tuple[float, float]:
        def moved(n_rows: int, seed: int) -> torch.Tensor:
            return factor * (sparse_signed_data(n_rows, seed) + offset * direction)

        x = moved(4096, 0).double()
        statistics = HookStatistics(x.mean(dim=0), float((x - x.mean(dim=0)).square().sum(dim=1).mean()))
        one = SAELearner(
            architecture(variant, D_IN, D_SAE),
            LearnerConfig(init_l0=6.0, learning_rate=3e-3),
            sparsity_coefficient=0.5,
            n_steps=100,
            seed=0,
            mean=statistics.mean,
            scale=statistics.scale,
        )
        for step in range(100):
            one.step(moved(512, step))
        sae, held_out = one.trained_sae(), moved(2000, 10_000)
        with torch.no_grad():
            latents = sae.encode(held_out)
            rest = (held_out - sae.decode(latents)).square().sum() / (held_out - held_out.mean(dim=0)).square().sum()
        return float((latents != 0).float().sum(dim=1).mean()), 1 - float(rest)

    usual, other = l0_and_r_squared(1.0, 0.0), l0_and_r_squared(factor, offset)
    assert other[0] == pytest.approx(usual[0], rel=0.02)
    assert other[1] == pytest.approx(usual[1], abs=0.005)


@pytest.mark.parametrize("variant", VARIANTS)
def test_constraints_hold_after_every_step(variant):
    one = learner(variant, learning_rate=0.3)
    for step in range(5):
        one.step(sparse_signed_data(256, seed=step))
        torch.testing.assert_close(one.sae.W_dec.norm(dim=1), torch.ones(D_SAE))
        if variant[0] == "sa_gated":
            assert bool((one.sae.threshold >= 0).all())


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_dict_continues_bit_for_bit(variant):
    whole = learner(variant)
    train(whole, 12)
    first, second = learner(variant), learner(variant)
    train(first, 5)
    state = first.state_dict()
    second.load_state_dict({**state, "sae": {k: v.clone() for k, v in state["sae"].items()}})
    train(second, 7, first=5)
    for name, value in whole.sae.state_dict().items():
        assert torch.equal(second.sae.state_dict()[name], value), name


@pytest.mark.parametrize("two_sided", [False, True])
def test_firing_quantile(two_sided):
    z = torch.randn(1000, 7, generator=torch.Generator().manual_seed(0))
    threshold = firing_quantile(z, 0.05, two_sided=two_sided)
    exceeding = ((z.abs() if two_sided else z) > threshold).sum(dim=0)
    assert exceeding.tolist() == [50] * 7


def test_calibrated_start_has_the_l0_asked_for():
    """The gate's L0; a latent whose magnitude relu cuts off would count less, but b = 0 and theta > 0 here."""
    one = learner(learning_rate=1e-12)
    assert float(one.step(sparse_signed_data(4096))["l0"]) == pytest.approx(6.0, rel=0.03)


def test_constant_start():
    one = learner(threshold_init="constant", constant_threshold=0.25, learning_rate=1e-12)
    one.step(sparse_signed_data(512))
    torch.testing.assert_close(one.sae.threshold, torch.full((1, D_SAE), 0.25))


def test_dead_latents_get_their_threshold_back():
    one = learner(dead_window=1500, n_steps=100)
    train(one, 1)
    with torch.no_grad():
        one.sae.threshold[:, :5] = 1e6
    train(one, 2, first=1)
    assert one.n_dead_resets == 0
    train(one, 1, first=3)
    assert one.n_dead_resets == 5
    assert one.sae.threshold.detach().max().item() < 1e3
    silent = learner(dead_reset=False, dead_window=1500, n_steps=100)
    train(silent, 1)
    with torch.no_grad():
        silent.sae.threshold[:, :5] = 1e6
    assert float(train(silent, 4, first=1)["dead_fraction"]) == pytest.approx(5 / D_SAE)
    assert silent.n_dead_resets == 0


def test_schedules():
    config = LearnerConfig(learning_rate=1.0, warmup_fraction=0.1, decay_fraction=0.2, sparsity_warmup_fraction=0.5)
    rates = [schedule(config, 2.0, step, 100) for step in range(100)]
    assert rates[0] == (pytest.approx(0.1), 0.0)
    assert rates[9].learning_rate == pytest.approx(1.0)
    assert rates[25].sparsity_coefficient == pytest.approx(1.0)
    assert rates[80] == (pytest.approx(1.0), 2.0)
    assert rates[99].learning_rate == pytest.approx(0.05)


def test_values_out_of_range_are_all_named():
    with pytest.raises(
        ValueError, match=r"learning_rate is 0, it must be more than 0 and at most 100; init_l0 is -1, it must be"
    ):
        LearnerConfig(learning_rate=0, init_l0=-1)


@pytest.mark.parametrize("variant", VARIANTS[:2])
@pytest.mark.parametrize("coefficient", [0.05, 3.0])
def test_target_l0_is_reached_from_either_side(variant, coefficient):
    one = learner(variant, coefficient=coefficient, target_l0=4.0, n_steps=400)
    assert float(train(one, 400)["l0"]) == pytest.approx(4.0, rel=0.1)


def test_target_l0_out_of_reach_keeps_lambda_bounded():
    one = learner(target_l0=1e5, n_steps=400)
    train(one, 400)
    assert one.coefficient_factor == pytest.approx(1e-3)


@pytest.mark.parametrize("init_l0", [1.0, 12.0])
def test_a_step_is_adam_on_the_dense_gradients(init_l0):
    """As many latents as inputs, so that no transposed matrix could pass unseen; below and above the sparse path's density."""
    cfg = Gated(D_IN, D_IN)
    x = sparse_signed_data(512) + torch.randn(
        512, D_IN, generator=torch.Generator().manual_seed(1)
    )  # no two rows equal
    config = LearnerConfig(init_l0=init_l0, warmup_fraction=0, sparsity_warmup_fraction=0)
    one = SAELearner(cfg, config, sparsity_coefficient=0.3, n_steps=100, seed=0, mean=x.mean(dim=0), scale=1.0)
    calibrate(one.sae, x, init_l0)
    reference = SAE(cfg)
    reference.load_state_dict(one.sae.state_dict())
    plain = torch.optim.Adam(reference.parameters(), lr=config.learning_rate, betas=(0.0, 0.999))
    one.step(x)
    _, gradient = dense_gradients(reference, x, 0.3)
    along = (gradient["W_dec"] * reference.W_dec).sum(dim=1, keepdim=True)
    gradient["W_dec"] = (gradient["W_dec"] - along * reference.W_dec).detach()
    for name, parameter in reference.named_parameters():
        parameter.grad = gradient[name]
    plain.step()
    with torch.no_grad():
        cfg.project(reference)
    for name, parameter in reference.named_parameters():
        is_clear = gradient[name].abs() > 1e-3  # the first step is its sign, which rounding decides near 0
        assert bool(is_clear.any())
        torch.testing.assert_close(dict(one.sae.named_parameters())[name][is_clear], parameter[is_clear])
