"""An architecture that the project has never seen, defined here: ReLU with an L1 penalty, through a whole study."""

from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from torch import Tensor

from saes.architectures import ARCHITECTURES
from saes.architectures.base import Architecture, Objective, Parameters
from saes.dense import autograd_gradients, mean_squared_norm
from saes.io import load_sae
from saes.views import JumpReLUView
from tests.pipeline.studies.common import dipole, study


@dataclass(frozen=True)
class ReLUL1(Architecture):
    """f = relu(W_enc (x - b_dec) + b_enc), L = ||x - xhat||^2 + lambda |f|_1."""

    name = "relu_l1"
    title = "ReLU"
    learner_settings = ("target_l0",)

    bias: bool = True
    """Whether there is a b_enc."""

    @property
    def is_signed(self) -> bool:
        return False

    @property
    def vectors(self) -> dict[str, tuple[int, ...]]:
        return {"b_enc": (self.d_sae,)} if self.bias else {}

    def encode(self, sae: Parameters, x: Tensor) -> Tensor:
        u = sae.pre_activations(x)
        return torch.relu(u + sae.b_enc if self.bias else u)

    def fold(self, sae: Parameters, scale: float) -> None:
        for vector in (sae.b_dec, *([sae.b_enc] if self.bias else [])):
            vector /= scale

    def one_sided_view(self, sae: Parameters) -> JumpReLUView:
        zero = torch.zeros(self.d_sae)
        return JumpReLUView(sae.W_enc, sae.b_enc if self.bias else zero, zero, sae.W_dec, sae.b_dec)

    def start(self, sae, x, learner) -> None:
        pass

    def gradients(self, sae, x, sparsity_coefficient, learner, compute_dtype):
        def objective() -> Objective:
            f = self.encode(sae, x)
            reconstruction = mean_squared_norm(x - sae.decode(f))
            sparsity = sparsity_coefficient * f.sum() / len(x)
            is_on = f > 0
            l0 = is_on.sum() / len(x)
            return Objective(reconstruction + sparsity, reconstruction, sparsity, torch.zeros(()), l0, is_on.any(dim=0))

        return autograd_gradients(sae, objective)

    def project(self, sae: Parameters) -> None:
        sae.normalise_decoder()

    def reset(self, sae, x, dead, learner) -> tuple[str, ...]:
        return ()


SWEEPS = [
    {"architecture": "relu_l1", "d_sae": 24, "sparsity_coefficients": [0.5, 3.0]},
    {"architecture": "relu_l1", "d_sae": 24, "sparsity_coefficients": [0.5, 3.0], "bias": False},
    {"architecture": "sa_gated", "d_sae": 16, "sparsity_coefficients": [0.5, 3.0]},
]


@pytest.fixture
def relu_l1(monkeypatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "relu_l1", ReLUL1)


@pytest.mark.usefixtures("relu_l1")
def test_a_new_architecture_goes_through_a_whole_study(tmp_path, tiny_model_folder, corpus_file):
    path = study(tmp_path, tiny_model_folder, corpus_file)
    for command in ("harvest", "train", "eval", "report"):
        result = dipole(command, path, "--set", f"train.saes={SWEEPS}", "--set", "train.n_steps=30")
        assert result.exit_code == 0, result.output
    assert "SA-GSAE 16 against ReLU 24, no bias" in result.output
    rows = pd.read_csv(tmp_path / "run/eval.csv").to_dict("records")
    of_relu = [row for row in rows if row["architecture"] == "relu_l1"]
    assert len(of_relu) == 2 * 2 * 2 * 2
    assert not any(row["is_signed"] for row in of_relu)
    assert {row["label"] for row in of_relu} == {"ReLU 24", "ReLU 24, no bias"}
    assert {row["n_params"] for row in of_relu} == {2 * 32 * 24 + 32, 2 * 32 * 24 + 32 + 24}
    assert {row["bipolar_fraction"] for row in of_relu} == {0.0}
    verdicts = pd.read_csv(tmp_path / "run/verdicts.csv")
    assert set(verdicts["b"]) == {"ReLU 24", "ReLU 24, no bias"}
    sae = load_sae(tmp_path / "run/saes" / of_relu[0]["sae_id"])
    x = torch.randn(50, 32)
    latents, view = sae.encode(x), sae.one_sided_view()
    assert bool((latents >= 0).all())
    torch.testing.assert_close(view.decode(view.encode(x)), sae(x))


@pytest.mark.usefixtures("relu_l1")
def test_a_new_architecture_has_its_own_settings(tmp_path, tiny_model_folder, corpus_file):
    path = study(tmp_path, tiny_model_folder, corpus_file)
    wrong = [{**SWEEPS[0], "bia": True}]
    result = dipole("config", path, "--set", f"train.saes={wrong}")
    assert result.exit_code == 2
    assert "train.saes.0.bia: unknown key, did you mean bias?; allowed are architecture, bias, d_sae" in result.output
    result = dipole("config", path, "--set", f"train.saes={[{**SWEEPS[0], 'auxiliary_loss': False}]}")
    assert "train.saes.0.auxiliary_loss: unknown key" in result.output
