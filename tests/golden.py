"""Tiny studies of every kind and the fingerprints of what they leave: proof that a change of structure changes no result.

    python -m tests.golden            # compare with tests/golden.json
    python -m tests.golden --record   # write it anew, where a change of results is meant

A study runs in a process of its own, in float32 with two threads. Bits depend on the processor, so hashes are compared where the
recorded processor is at hand, and tables by value everywhere.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from core.files import sha256_file
from tests.models import random_documents, save_tiny_model

GOLDEN = Path(__file__).with_name("golden.json")
WALL_CLOCK = {"seconds"}
HASHED = ("activations/*/*.safetensors", "saes/*/weights.safetensors", "networks/*/weights.safetensors")
SWEEP = {"sparsity_coefficients": [0.5, 3.0]}
SAES = {
    "harvest": {
        "hookpoints": [{"site": "mlp_out"}, {"site": "resid_post", "layer": 0}],
        "n_tokens": 8192,
        "context_length": 32,
        "batch_tokens": 256,
        "shard_tokens": 1024,
        "held_out_fraction": 0.2,
        "prepend_bos": False,
    },
    "train": {
        "n_steps": 40,
        "batch_size": 128,
        "seeds": [0, 1],
        "bank_size": 5,
        "device": "cpu",
        "learner": {"init_l0": 6, "dead_window": 1000, "compute_dtype": "float32", "learning_rate": 0.01},
        "saes": [
            {"architecture": "gated", "d_sae": 32, **SWEEP},
            {"architecture": "sa_gated", "d_sae": 16, **SWEEP},
            {"architecture": "sa_gated", "d_sae": 16, "tying": "none", **SWEEP},
            {"architecture": "sa_gated", "d_sae": 16, "tying": "magnitude", "auxiliary_loss": False, **SWEEP},
            {"architecture": "gated", "d_sae": 16, "threshold_init": "constant", **SWEEP},
        ],
    },
    "eval": {"device": "cpu"},
}
NETWORKS = {
    "kind": "networks",
    "data": {"source": "synthetic", "task": "xor", "n_train": 24, "n_held_out": 50, "d": 2, "bias": False},
    "train": {
        "loss": "hinge",
        "betas": [0.5, 2.0],
        "max_steps": 200,
        "device": "cpu",
        "methods": [
            {"method": "convex", "patterns": "enumerated"},
            {"method": "convex", "n_patterns": 12, "solver": "rbcd"},
            {"method": "convex", "patterns": "descent", "n_patterns": 6},
            {"method": "scp", "n_samples": 40},
            {"method": "robust", "epsilon": 0.05, "n_patterns": 30},
            {"method": "gradient_descent", "n_neurons": 8, "n_restarts": 2, "n_steps": 60},
            {"method": "linear"},
        ],
    },
    "eval": {"epsilons": [0.1], "pgd_steps": 5},
}
SQUARED = {
    **NETWORKS,
    "data": {**NETWORKS["data"], "task": "teacher", "d": 3, "noise": 0.1, "bias": True},
    "train": {
        **NETWORKS["train"],
        "loss": "squared",
        "methods": NETWORKS["train"]["methods"][1:4] + [{"method": "linear"}],
    },
    "eval": {},
}
XOR = {
    "kind": "xor",
    "data": {"n_features": 3000, "n_neurons": 40, "n_test": 100},
    "train": {"n_seeds": 3, "n_steps": 25, "learning_rates": [1e-12, 1e-10]},
}


def studies(folder: Path) -> dict[str, Path]:
    """Study files in ``folder``, by name."""
    model = save_tiny_model(folder / "model")
    corpus = folder / "documents.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in random_documents(400)))
    of_saes = {
        "model": {"local": str(model), "dtype": "float32", "device": "cpu"},
        "corpus": {"files": [str(corpus)]},
        **SAES,
    }
    found = {}
    for name, study in {"saes": of_saes, "hinge": NETWORKS, "squared": SQUARED, "xor": XOR}.items():
        found[name] = folder / f"{name}.yaml"
        found[name].write_text(yaml.safe_dump({"name": name, "run_dir": str(folder / name), **study}, sort_keys=False))
    return found


def run(paths: Iterable[Path]) -> None:
    """Whole studies through the command line, in a process of their own."""
    threads = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    code = (
        "import sys; from pipeline.cli import app\nfor path in sys.argv[1:]: app(['run', path], standalone_mode=False)"
    )
    command = [sys.executable, "-c", code, *map(str, paths)]
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the studies ended with {done.returncode}:\n{done.stderr}")


def fingerprint(run_dir: Path) -> dict[str, Any]:
    """Hashes of shards and weights, and the tables by column."""
    hashes = {
        str(path.relative_to(run_dir)): sha256_file(path)
        for pattern in HASHED
        for path in sorted(run_dir.glob(pattern))
    }
    tables = {}
    for name in ("eval.csv", "verdicts.csv"):
        table = pd.read_csv(run_dir / name)
        columns = {column: table[column].tolist() for column in table if column not in WALL_CLOCK}
        tables[name] = json.loads(json.dumps(columns).replace("NaN", "null"))
    return {"sha256": hashes, "tables": tables}


def processor() -> str:
    """What the bits of a result depend on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = {line.split(":")[1].strip() for line in lines if line.startswith("model name")}
    return f"{', '.join(sorted(names))}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


def measure() -> dict[str, Any]:
    """Run every study; what each leaves."""
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        paths = studies(Path(folder))
        run(paths.values())
        for name in paths:
            found[name] = fingerprint(Path(folder) / name)
    return {"processor": processor(), "studies": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--of", type=Path, help="print the fingerprint of a finished run directory instead")
    arguments = parser.parse_args()
    if arguments.of:
        print(json.dumps(fingerprint(arguments.of), indent=1))
        return
    found = measure()
    if arguments.record:
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
        return
    print("same" if found == json.loads(GOLDEN.read_text()) else "different")


if __name__ == "__main__":
    main()
