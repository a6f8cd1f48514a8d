"""What the sites of a model truly are, what dipole makes of them, and the table of both.

    python -m tests.hookpoints.truth     write docs/models.md

The truth owes nothing to dipole's capture: the stream is transformers' own ``hidden_states``; what a sublayer adds to it is
what ``hidden_states`` lose when the sublayer's parameters are set to zero.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hookpoints.anatomy import Place
from hookpoints.blocks import find_blocks
from hookpoints.capture import ActivationCapture
from hookpoints.config import HarvestConfig
from hookpoints.contexts import Contexts
from hookpoints.packing import prove_packing
from hookpoints.passes import passes
from hookpoints.probe import anatomies
from hookpoints.sites import SITES, Hookpoint, HookpointConfig, Site
from tests.hookpoints.families import FAMILIES, VOCABULARY, tiny

TABLE = Path(__file__).parents[2] / "docs" / "models.md"
LAYERS = (0, 1, 2)  # what hidden_states show of the last is normalised
CONTEXT_LENGTH = 48
_TOLERANCE = 1e-3


@torch.no_grad()
def hidden_states(model: PreTrainedModel, input_ids: Tensor, name: str) -> tuple[Tensor | None, ...]:
    """transformers' own: the stream before each block, and after the last."""
    output = model.base_model(input_ids=input_ids, use_cache=False, output_hidden_states=True)
    return (None,) * FAMILIES[name].hidden_states_begin_after + tuple(output.hidden_states)


_NOT_MLP = re.compile(r"attn|attention|mamba|lstm|mixer|temporal|^conv\.|norm|\b(pre_)?ln|residual$", re.IGNORECASE)


@torch.no_grad()
def truth(model: PreTrainedModel, name: str, layer: int, input_ids: Tensor) -> dict[Site, Tensor | None]:
    """Every site of a block from hidden states alone: of the model, without the MLP's parameters, and without attention's."""
    family, block = FAMILIES[name], find_blocks(model)[layer]
    states = hidden_states(model, input_ids, name)
    sites: dict[Site, Tensor | None] = {"resid_pre": states[layer], "resid_post": states[layer + 1]}
    if family.modules is not None:
        return sites | _outputs(model, block, family.modules, input_ids)
    kept = {key: value.clone() for key, value in block.state_dict().items()}
    named = list(block.named_parameters())
    for key, parameter in named:
        if not _NOT_MLP.search(key):
            parameter.zero_()
    without_mlp = hidden_states(model, input_ids, name)[layer + 1]
    for key, parameter in named:
        if re.search(family.attention, key) and not key.endswith("residual"):
            parameter.zero_()
    without_both = hidden_states(model, input_ids, name)[layer + 1]
    block.load_state_dict(kept)
    after = states[layer + 1]
    assert after is not None
    assert without_mlp is not None
    assert without_both is not None
    inner: dict[Site, Tensor | None] = {
        "resid_mid": without_mlp,
        "attn_out": without_mlp - without_both,
        "mlp_out": after - without_mlp,
    }
    return sites | inner


def _outputs(
    model: PreTrainedModel, block: nn.Module, modules: Mapping[str, str], input_ids: Tensor
) -> dict[Any, Tensor]:
    found: dict[Any, Tensor] = {}

    def keep(site: str):
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            found[site] = (output[0] if isinstance(output, tuple | list) else output).clone()

        return hook

    handles = [block.get_submodule(path).register_forward_hook(keep(site)) for site, path in modules.items()]
    model.base_model(input_ids=input_ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


class Verdict(NamedTuple):
    """What dipole does at a family's sites."""

    class_name: str
    sites: dict[Site, str]
    """``exact``, ``exact in 2 of 3 blocks; else: ...``, ``refused: ...``, or ``WRONG ...``."""
    rows: str
    """How pieces are read, or why none is."""

    def line(self, name: str) -> str:
        """Of docs/models.md."""
        return f"| {name} | {self.class_name} | {' | '.join(self.sites[site] for site in SITES)} | {self.rows} |"


@cache
def judge(name: str) -> Verdict:
    """Every site of three blocks against the truth, then packed or padded rows against each piece alone."""
    model = tiny(name)
    input_ids = torch.randint(3, VOCABULARY, (2, 21), generator=torch.Generator().manual_seed(3))
    said: dict[Site, list[str]] = {site: [] for site in SITES}
    try:
        found = anatomies(model, LAYERS, CONTEXT_LENGTH)
    except ValueError as refusal:
        return Verdict(
            type(model).__name__, dict.fromkeys(SITES, f"refused: {_reason(str(refusal))}"), _rows(model, name)
        )
    for layer, sites in found.items():
        expected = truth(model, name, layer, input_ids)
        there: list[Site] = [site for site in SITES if isinstance(sites[site], Place)]
        values = _captured(model, layer, there, input_ids)
        alone = _captured(model, layer, there[-1:], input_ids)
        assert torch.equal(alone[there[-1]], values[there[-1]]), "one hook disturbs another"
        for site in SITES:
            place, true_value = sites[site], expected.get(site)
            if not isinstance(place, Place):
                said[site].append(_reason(place.reason))
            elif true_value is not None:  # hidden states do not show every one
                said[site].append(_compare(values[site], true_value))
    return Verdict(
        type(model).__name__, {site: _summary(of_layers) for site, of_layers in said.items()}, _rows(model, name)
    )


def _captured(model: PreTrainedModel, layer: int, sites: list[Site], input_ids: Tensor) -> dict[Site, Tensor]:
    with ActivationCapture(model, [Hookpoint(site, layer) for site in sites], CONTEXT_LENGTH) as capture:
        values = capture.run(input_ids)
    return {site: values[Hookpoint(site, layer).name] for site in sites}


def _compare(value: Tensor, expected: Tensor) -> str:
    error = float((value - expected).norm() / expected.norm())
    return "exact" if error < _TOLERANCE else f"WRONG by {error:.2g}"


def _summary(of_layers: list[str]) -> str:
    wrong = [one for one in of_layers if one.startswith("WRONG")]
    refused = [one for one in of_layers if one != "exact"]
    if wrong or not refused:
        return wrong[0] if wrong else "exact"
    if len(refused) == len(of_layers):
        return f"refused: {refused[0]}"
    return f"exact in {len(of_layers) - len(refused)} of {len(of_layers)} blocks; else refused: {refused[0]}"


def _reason(refusal: str) -> str:
    """Without the class, the numbers of blocks, and what to use instead."""
    short = re.sub(r"^\w+ does not exist in \w+, block \d+: ", "", refusal).partition("; use ")[0]
    short = re.sub(r" \(by [^)]*\)|: for .* its shape is .*", "", short)
    return re.sub(r"block \d+", "a block", short).replace("|", "/")


def _rows(model: PreTrainedModel, name: str) -> str:
    """Pieces shorter and longer than every window, as a harvest reads them, against transformers' reading of each alone."""
    hookpoint = Hookpoint("resid_post", 1)
    try:
        capture = ActivationCapture(model, [hookpoint], CONTEXT_LENGTH)
        with capture:
            packing = prove_packing(capture)
    except ValueError as refusal:
        return f"refused: {_reason(str(refusal))}"
    lengths = [20, 1, 7, 20, 30, 18, 3, 45]
    position_ids = torch.cat([torch.arange(length) for length in lengths]).reshape(-1, CONTEXT_LENGTH)
    input_ids = torch.randint(3, VOCABULARY, position_ids.shape, generator=torch.Generator().manual_seed(5))
    contexts = Contexts(input_ids, position_ids, torch.zeros_like(position_ids).int())
    config = HarvestConfig(hookpoints=[HookpointConfig(site="mlp_out")], n_tokens=100, batch_tokens=100)
    config = config.model_copy(update={"context_length": CONTEXT_LENGTH})
    rows = torch.zeros(input_ids.numel(), model.config.get_text_config().hidden_size)
    with capture:
        keep = torch.ones_like(input_ids, dtype=torch.bool)
        for one in passes(capture, contexts, keep, config, is_packed=packing.is_packed):
            rows[one.place] = one.activations[hookpoint.name].float()
    start, worst = 0, 0.0
    for length in lengths:
        piece = input_ids.flatten()[None, start : start + length]
        alone = hidden_states(model, piece, name)[hookpoint.layer + 1]
        assert alone is not None
        difference = (rows[start : start + length] - alone[0]).norm(dim=1) / alone[0].norm(dim=1)
        worst, start = max(worst, float(difference.max())), start + length
    how = "packed" if packing.is_packed else "one piece a row"
    return how if worst < _TOLERANCE else f"WRONG: {how}, by {worst:.2g}"


_HEAD = """# Models

What dipole does at each site of {n} families, on tiny random models of transformers {version}'s own classes, held against the
model's `hidden_states` and against ablation of each sublayer's parameters. Made by `python -m tests.hookpoints.truth`; the
test suite holds every line. A family that is not here is judged the same way when it is loaded: dipole proves where each site
is, and how pieces may be read, on the model itself, and refuses what it cannot prove.

- `attn_out` and `mlp_out` are what a sublayer adds to the residual stream: after a norm that follows it, times the model's
  own multiplier, experts summed.
- Rows: *packed* means that several pieces of documents share a row of the model's input, each computed as it is alone;
  *one piece a row* that the model does not keep them apart, so each stands in a row of its own, padded on the right.

{counts}

| family | class | {sites} | rows |
|---|---|{rule}---|
"""


def table() -> str:
    """docs/models.md."""
    import transformers

    verdicts = {name: judge(name) for name in sorted(FAMILIES)}
    cells = [cell for verdict in verdicts.values() for cell in verdict.sites.values()]
    exact = sum(cell.startswith("exact") for cell in cells)
    wrong = sum("WRONG" in cell for cell in cells)
    refused = len(cells) - exact - wrong
    counts = f"Of {len(cells)} sites {exact} are exact (some in part of the blocks), {refused} are refused and {wrong} are wrong."
    head = _HEAD.format(
        n=len(verdicts),
        version=transformers.__version__,
        counts=counts,
        sites=" | ".join(SITES),
        rule="---|" * len(SITES),
    )
    return head + "".join(verdict.line(name) + "\n" for name, verdict in verdicts.items())


if __name__ == "__main__":
    TABLE.write_text(table())
    print(f"{len(FAMILIES)} families in {TABLE}")
