"""Time of loss recovered of many SAEs of one hook, over that of as many bare forward passes: same model, same tokens, same run.

    python -m benchmarks.losses [--saes 12] [--tokens 50000] [--d-sae 2304] [--repeats 1] [--dtype auto] [--device auto]

The clean pass and both ablations, encoding, decoding, cross-entropy and KL are all included; the bare passes make logits alone.
The last line is one JSON object.
"""

import argparse
import json
import statistics
import time
from typing import get_args

import torch

from core.devices import Dtype
from eval.saes.loss import LossText, spliced_losses
from hookpoints.config import EmbeddedModel
from hookpoints.contexts import Contexts, packed_batches
from hookpoints.corpus import EmbeddedCorpus, documents
from hookpoints.models import LanguageModel, load_model
from hookpoints.sites import HookpointConfig, resolve_hookpoint
from hookpoints.splice import Splicer
from hookpoints.text import Notes, tokenised
from saes.architectures.gated import SignAwareGated, calibrate
from saes.sae import SAE

CONTEXT_LENGTH = 256


def contexts_of(language_model: LanguageModel, n_tokens: int) -> Contexts:
    """One piece of a document each."""
    rows: list[list[int]] = []
    notes, tokenizer = Notes(), language_model.tokenizer
    for _, ids in tokenised(documents(EmbeddedCorpus(embedded="python-docs"), tokenizer, notes), tokenizer, notes):
        rows += [ids[start : start + CONTEXT_LENGTH] for start in range(0, len(ids) - CONTEXT_LENGTH, CONTEXT_LENGTH)]
        if len(rows) * CONTEXT_LENGTH >= n_tokens:
            break
    ids = torch.tensor(rows[: round(n_tokens / CONTEXT_LENGTH)])
    numbers = torch.arange(len(ids), dtype=torch.int32)[:, None].expand(ids.shape)
    return Contexts(ids, torch.arange(CONTEXT_LENGTH).expand(ids.shape), numbers)


def bare_forward(language_model: LanguageModel, contexts: Contexts, batch_contexts: int) -> float:
    """Seconds of the model's logits on all of them."""
    model = language_model.model
    started = time.perf_counter()
    with torch.inference_mode():
        for batch in packed_batches(contexts, batch_contexts):
            logits = model(input_ids=batch.input_ids.to(model.device), use_cache=False).logits
            float(logits[0, 0, 0])  # waits for an accelerator
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saes", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--d-sae", type=int, default=2304)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--batch-contexts", type=int, default=16)
    parser.add_argument("--dtype", choices=get_args(Dtype), default="auto")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    language_model = load_model(EmbeddedModel(embedded="smollm2-135m", dtype=arguments.dtype, device=arguments.device))
    model, contexts = language_model.model, contexts_of(language_model, arguments.tokens)
    hookpoint = resolve_hookpoint(HookpointConfig(site="mlp_out"), language_model.n_layers)
    splicer = Splicer(model, hookpoint, CONTEXT_LENGTH)
    rows = splicer.clean(contexts.input_ids[:4].to(model.device)).x.flatten(0, 1).float()
    saes = {}
    for number in range(arguments.saes):
        sae = SAE(SignAwareGated(language_model.d_model, arguments.d_sae), torch.Generator().manual_seed(number))
        sae = sae.to(model.device)
        calibrate(sae, rows, init_l0=64)
        saes[str(number)] = sae
    keep = contexts.position_ids > 0
    text = LossText(contexts, keep, None, is_packed=True)
    bare, ours = list[float](), list[float]()
    bare_forward(language_model, Contexts(*(part[:16] for part in contexts)), arguments.batch_contexts)
    for _ in range(arguments.repeats):
        bare.append(bare_forward(language_model, contexts, arguments.batch_contexts))
        started = time.perf_counter()
        spliced_losses(splicer, text, saes, rows.mean(dim=0))
        ours.append(time.perf_counter() - started)
        bare.append(bare_forward(language_model, contexts, arguments.batch_contexts))
    ratio = statistics.median(ours) / (arguments.saes * statistics.median(bare))
    print(f"{language_model.model_id}, {model.dtype}, {contexts.input_ids.numel()} tokens, {hookpoint.name}")
    print(f"a bare forward {statistics.median(bare):.1f} s; {arguments.saes} SAEs {statistics.median(ours):.1f} s")
    print(json.dumps({"losses_over_bare_forwards": round(ratio, 4), "shares_prefix": splicer.shares_prefix}))


if __name__ == "__main__":
    main()
