from pathlib import Path

import pytest
import torch

from eval.saes.loss import Losses, LossText, loss_columns, ratio, spliced_losses
from hookpoints.contexts import Contexts
from hookpoints.sites import Hookpoint
from hookpoints.splice import Splicer
from saes.architectures.gated import Gated, SignAwareGated
from saes.sae import SAE
from tests.models import D_MODEL, TINY_MODELS, VOCABULARY

HERE = Path(__file__)


class Identity(SAE):
    """Reconstructs everything."""

    def forward(self, x):
        return x


class Constant(SAE):
    """Reconstructs nothing."""

    def forward(self, x):
        return torch.zeros_like(x)


def contexts(n=4, length=24) -> Contexts:
    """Each of two documents, the second of which begins in the middle; every other context goes on with it."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (n, length), generator=generator)
    split = length // 2 + 1
    positions = torch.cat([torch.arange(split), torch.arange(length - split)]).expand(n, -1)
    documents = torch.arange(n)[:, None] * 2 + (torch.arange(length) >= split)
    return Contexts(ids, positions.contiguous(), documents.int())


def text(*, is_packed=True, keep=None, norm_bound=None) -> LossText:
    made = contexts()
    everything = torch.ones_like(made.input_ids, dtype=torch.bool)
    return LossText(made, everything if keep is None else keep, norm_bound, is_packed)


def saes():
    cfg = Gated(D_MODEL, 8)
    return {
        "identity": Identity(cfg),
        "nothing": Constant(cfg),
        "sa": SAE(SignAwareGated(D_MODEL, 8), torch.Generator().manual_seed(5)),
    }


@pytest.mark.parametrize("name", TINY_MODELS)
@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "mlp_out", "attn_out"])
def test_identity_is_the_clean_loss_and_zeros_the_ablated_one(name, site):
    splicer = Splicer(TINY_MODELS[name](), Hookpoint(site, 1), 64)
    found = spliced_losses(splicer, text(), saes(), torch.zeros(D_MODEL))
    identity, nothing = found["identity"], found["nothing"]
    assert torch.equal(identity.spliced, identity.clean)
    assert float(identity.kl.abs().max()) == 0
    assert torch.equal(nothing.spliced, nothing.zero)
    assert float(nothing.kl.min()) > 0
    columns = loss_columns(identity)
    assert columns["loss_recovered"] in (1.0,) or columns["ce_zero"] <= columns["ce_clean"]
    assert columns["spliced_fraction"] == 1
    assert columns["n_loss_tokens"] == 4 * (24 - 2)
    assert columns["n_loss_documents"] == 8


@pytest.mark.parametrize("name", TINY_MODELS)
def test_losses_equal_those_of_each_document_alone(name):
    """Against plain cross-entropy of the model, a document a row."""
    model = TINY_MODELS[name]()
    made = contexts()
    for is_packed in (True, False):
        splicer = Splicer(model, Hookpoint("mlp_out", 1), 64)
        found = spliced_losses(splicer, text(is_packed=is_packed), saes(), torch.zeros(D_MODEL))["sa"]
        for number, total in zip(found.document.tolist(), found.clean.tolist(), strict=True):
            ids = made.input_ids[made.documents == number][None]
            logits = model(ids).logits[0, :-1]
            expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
            assert total == pytest.approx(float(expected), rel=1e-5)


def test_what_is_not_kept_stays_as_it_is():
    splicer = Splicer(TINY_MODELS["llama"](), Hookpoint("resid_post", 1), 64)
    nothing_kept = torch.zeros(4, 24, dtype=torch.bool)
    found = spliced_losses(splicer, text(keep=nothing_kept), saes(), torch.zeros(D_MODEL))["nothing"]
    assert torch.equal(found.spliced, found.clean)
    assert found.spliced_fraction == 0
    norms = splicer.clean(contexts().input_ids, contexts().position_ids).x.norm(dim=-1)
    bound = float(norms.median())
    found = spliced_losses(splicer, text(norm_bound=bound), saes(), torch.zeros(D_MODEL))["nothing"]
    assert found.spliced_fraction == float((norms <= bound).float().mean())


def test_kl_is_that_of_the_two_distributions():
    splicer = Splicer(TINY_MODELS["llama"](), Hookpoint("resid_post", 1), 64)
    made = contexts()
    found = spliced_losses(splicer, text(), saes(), torch.zeros(D_MODEL))["sa"]
    clean = splicer.clean(made.input_ids, made.position_ids)
    everywhere = torch.ones_like(made.input_ids, dtype=torch.bool)
    logits = splicer.spliced(clean, everywhere, saes()["sa"](clean.x.flatten(0, 1)))
    p, q = clean.logits.log_softmax(-1), logits.log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)
    scored = torch.zeros(4, 24, dtype=torch.bool)
    scored[:, :-1] = made.position_ids[:, 1:] > 0
    for number, total in zip(found.document.tolist(), found.kl.tolist(), strict=True):
        assert total == pytest.approx(float(kl[scored & (made.documents == number)].sum()), rel=1e-4)


def test_standard_errors_are_those_of_resampled_documents():
    generator = torch.Generator().manual_seed(0)
    n = torch.randint(20, 400, (60,), generator=generator).double()
    clean = n * (3 + 0.3 * torch.randn(60, generator=generator)).double()
    zero = clean + n * (4 + torch.randn(60, generator=generator)).double()
    spliced = clean + n * (0.4 + 0.1 * torch.randn(60, generator=generator)).double()
    value, error = ratio(zero - spliced, zero - clean)
    draws = torch.randint(60, (4000, 60), generator=generator)
    resampled = (zero - spliced)[draws].sum(1) / (zero - clean)[draws].sum(1)
    assert value == pytest.approx(float(resampled.mean()), rel=1e-2)
    assert error == pytest.approx(float(resampled.std()), rel=0.1)


def test_nothing_is_recovered_where_ablation_does_not_hurt():
    n = torch.tensor([10.0, 20.0], dtype=torch.float64)
    losses = Losses(torch.arange(2), n, n * 3, n * 3.1, n * 2.9, n * 3.5, n * 0.1, 1.0)
    columns = loss_columns(losses)
    assert columns["loss_recovered"] != columns["loss_recovered"]
    assert columns["loss_recovered_mean"] == pytest.approx(0.8)
    alone = losses._replace(n_tokens=n[:1], clean=n[:1], spliced=n[:1], zero=2 * n[:1], mean=n[:1], kl=n[:1])
    assert loss_columns(alone)["kl_standard_error"] != loss_columns(alone)["kl_standard_error"]
