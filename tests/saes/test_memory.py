import subprocess
import sys

D_IN, D_SAE, BATCH = 32, 65_536, 4096

STEPS = f"""
import resource, torch
from saes.architectures import SignAwareGated
from saes.config import LearnerConfig
from saes.learner import SAELearner

learner = SAELearner(
    SignAwareGated({D_IN}, {D_SAE}), LearnerConfig(compute_dtype="float32"), sparsity_coefficient=1.0, n_steps=10,
    seed=0, mean=torch.zeros({D_IN}), scale=1.0,
)
x = torch.randn({BATCH}, {D_IN}, generator=torch.Generator().manual_seed(0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(2):
    metrics = learner.step(x)
assert 0 < float(metrics["l0"]) < 200, metrics
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_a_wide_sae_trains_without_its_dense_latents():
    """z alone would take 1.1 GB; steps, gradients and optimiser state together stay under half of that."""
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout.splitlines()[-1])
    dense = BATCH * D_SAE * 4
    assert grown < dense / 2, f"grew by {grown / 1e9:.2f} GB; z would take {dense / 1e9:.2f} GB"
