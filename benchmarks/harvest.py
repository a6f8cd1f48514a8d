"""Throughput of the harvest over that of the bare forward to the same block: same model, same batches, same run.

    python -m benchmarks.harvest [--repeats 5] [--tokens 65536] [--dtype auto]

Interleaved, medians. Capturing one hook and three hooks are timed as whole harvests: proof of capture, reading contexts, capture,
filters, statistics, shuffling, checksums, fsync. The proof is timed alone too, in seconds and in contexts that the bare forward
reads meanwhile. The last line is one JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import get_args

from core.devices import Dtype
from hookpoints.capture import ActivationCapture
from hookpoints.config import HarvestConfig
from hookpoints.contexts import ContextStore, packed_batches
from hookpoints.corpus import EmbeddedCorpus
from hookpoints.described import Described
from hookpoints.harvest import harvest
from hookpoints.models import EmbeddedModel, LanguageModel, load_model
from hookpoints.packing import prove_packing
from hookpoints.sites import HookpointConfig, Site, resolve_hookpoint

SITES: dict[str, list[Site]] = {"one hook": ["mlp_out"], "three hooks": ["attn_out", "resid_mid", "mlp_out"]}
MODEL = EmbeddedModel(embedded="smollm2-135m")
CORPUS = EmbeddedCorpus(embedded="python-docs")


def settings(sites: list[Site], n_tokens: int) -> HarvestConfig:
    return HarvestConfig(
        hookpoints=[HookpointConfig(site=site) for site in sites], n_tokens=n_tokens, shard_tokens=16_384
    )


def bare_forward(language_model: LanguageModel, config: HarvestConfig, folder: Path) -> float:
    """Tokens per second of the model alone, stopped after the deepest site, on the same packed contexts."""
    model = language_model.model
    deepest = resolve_hookpoint(config.hookpoints[-1], language_model.n_layers)
    batches, store = [], ContextStore(folder / "contexts")
    for split in ("train", "held_out"):
        n_contexts = config.n_contexts[split]
        for start in range(0, n_contexts, config.batch_contexts):
            stop = min(start + config.batch_contexts, n_contexts)
            contexts = store.read(split, start, stop)
            batches += packed_batches(contexts, config.batch_contexts)
    with ActivationCapture(model, [deepest], config.context_length) as capture:
        started = time.perf_counter()
        for batch in batches:
            capture.run(batch.input_ids, batch.position_ids)
        seconds = time.perf_counter() - started
    return sum(batch.input_ids.numel() for batch in batches) / seconds


def whole_harvest(language_model: LanguageModel, config: HarvestConfig, folder: Path) -> float:
    """Tokens per second of a harvest whose contexts are packed already; the folder is emptied of shards first."""
    for path in [*folder.rglob("shard-*"), *folder.glob("manifest.json")]:
        path.unlink()
    steps = harvest(language_model, Described(MODEL, CORPUS, config), folder, {})
    started = time.perf_counter()
    total = 0
    for progress in steps:
        total = progress.total_tokens
    return total / (time.perf_counter() - started)


def proof_seconds(language_model: LanguageModel, config: HarvestConfig) -> tuple[float, float]:
    """Of finding and proving the places, and of proving how pieces are read."""
    hookpoints = [resolve_hookpoint(hookpoint, language_model.n_layers) for hookpoint in config.hookpoints]
    started = time.perf_counter()
    with ActivationCapture(language_model.model, hookpoints, config.context_length) as capture:
        found = time.perf_counter()
        prove_packing(capture)
    return found - started, time.perf_counter() - found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--dtype", choices=get_args(Dtype), default="auto")
    arguments = parser.parse_args()
    language_model = load_model(EmbeddedModel(embedded="smollm2-135m", dtype=arguments.dtype))
    config, proofs = settings(SITES["one hook"], arguments.tokens), list[tuple[float, float]]()
    rates: dict[str, list[float]] = {"bare forward": [], **{name: [] for name in SITES}}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {name: Path(temporary) / name for name in SITES}
        for name, sites in SITES.items():  # packs the contexts and warms up
            whole_harvest(language_model, settings(sites, arguments.tokens), folders[name])
        for _ in range(arguments.repeats):
            proofs.append(proof_seconds(language_model, config))
            rates["bare forward"].append(bare_forward(language_model, config, folders["one hook"]))
            for name, sites in SITES.items():
                rates[name].append(whole_harvest(language_model, settings(sites, arguments.tokens), folders[name]))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(
        f"{language_model.model_id}, {language_model.model.dtype}, {arguments.tokens} tokens, {arguments.repeats} rounds"
    )
    for name, rate in medians.items():
        spread = f"{min(rates[name]):,.0f} to {max(rates[name]):,.0f}"
        print(f"{name:14} {rate:8,.0f} tokens/s ({spread})  {rate / medians['bare forward']:.3f} of the bare forward")
    places, packing = (statistics.median(column) for column in zip(*proofs, strict=True))
    n_contexts = (places + packing) * medians["bare forward"] / config.context_length
    print(
        f"proof          {places:.2f} s of places, {packing:.2f} s of packing: {n_contexts:.1f} contexts of the bare forward"
    )
    ratios = [three / bare for three, bare in zip(rates["three hooks"], rates["bare forward"], strict=True)]
    one = [single / bare for single, bare in zip(rates["one hook"], rates["bare forward"], strict=True)]
    print(
        json.dumps(
            {
                "harvest_over_bare_forward": round(statistics.median(ratios), 4),
                "one_hook_over_bare_forward": round(statistics.median(one), 4),
                "proof_in_contexts": round(n_contexts, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
