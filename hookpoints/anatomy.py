"""Where the sites of a block are: found by equations that hold, not by the names of its parts.

One forward pass records every tensor that a part of the block is given or gives. The sites are those for which

    resid_pre + attn_out = resid_mid,    resid_mid + mlp_out = resid_post        (blocks in sequence)
    resid_pre + attn_out + mlp_out = resid_post                                  (parallel blocks)

holds to rounding. So norms after a sublayer, constant multipliers, experts that are summed, and residuals added inside a
sublayer are all found, and a site for which no equation holds is refused (docs/decisions/0010-proof-of-capture.md).
"""

import os.path
import re
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import nn

from core.schema import Schema
from hookpoints.blocks import find_blocks
from hookpoints.equations import find_sum
from hookpoints.recorder import BlockRecorder, End, Tap
from hookpoints.sites import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Role = Literal["attention", "mlp", "recurrence"]
_ROLES: tuple[tuple[Role, re.Pattern[str]], ...] = (
    ("attention", re.compile(r"attn|attention")),
    ("mlp", re.compile(r"mlp|ffn|feed_?forward|moe|expert")),
    ("recurrence", re.compile(r"mamba|ssm|rwkv|recurrent|lstm|shortconv|^conv$")),
)
_EXACT = 1e-3
_PARALLEL = (
    "no part of such a block is given the stream between attention and MLP, which run in parallel or add it inside a part; "
    "use resid_pre, resid_post, attn_out or mlp_out"
)
_POST_NORM = "its blocks normalise the stream itself, so it has two values there; use resid_pre or resid_post"
_MLP_FIRST = (
    "its blocks run the MLP before attention, so no stream is what attention has been added to and the MLP reads"
)
_ONE_SUBLAYER = "such a block has one sublayer, and nothing lies between two; use resid_pre or resid_post"
_NO_EQUATION = "no parts of its block add up to what the block changes in the stream; use resid_pre or resid_post"


class Term(Schema):
    """A tensor that a part of a block is given or gives, times a constant."""

    module: str
    """Path inside the block; empty for the block itself."""
    end: End
    """Which end of the module."""
    factor: float = 1.0
    """The model's own multiplier between the module and the stream."""


class Place(Schema):
    """Where a site is read: the sum of its terms (nearly always one)."""

    terms: list[Term]
    """What is added up."""
    error: float = 0.0
    """By how much its equation is off, relative to what is added; 0 for the ends of a block."""


class Refusal(NamedTuple):
    """Why a block has no such site."""

    reason: str


Anatomy = dict[Site, Place | Refusal]
_INNER: tuple[Site, ...] = ("resid_mid", "attn_out", "mlp_out")


class _Added(NamedTuple):
    """Tensors with factors whose sum was added to the stream."""

    terms: list[tuple[Tap, float]]
    error: float


def anatomy(model: "PreTrainedModel", block: nn.Module, recorder: BlockRecorder) -> Anatomy:
    """Every site of a block that was recorded, or why there is none; from the simplest equation that holds."""
    ends: Anatomy = {
        "resid_pre": Place(terms=[Term(module="", end="input")]),
        "resid_post": Place(terms=[Term(module="", end="output")]),
    }
    parts = _Parts(model, block, recorder)
    found = next((attempt for attempt in _attempts(parts) if attempt is not None), None)
    return ends | (found or dict.fromkeys(_INNER, Refusal(_NO_EQUATION)))


def _attempts(parts: "_Parts") -> Iterator[Anatomy | None]:
    yield _in_sequence(parts, 1)
    yield _at_once(parts, 2, _PARALLEL)
    yield _at_once(parts, 1, _ONE_SUBLAYER)
    yield _in_sequence(parts, 2)
    yield _at_once(parts, 3, _PARALLEL)


class _Parts:
    """The tensors recorded in a block, and the sums among them."""

    def __init__(self, model: "PreTrainedModel", block: nn.Module, recorder: BlockRecorder) -> None:
        given, taps = recorder.stream_in, recorder.taps()
        self._recorder = recorder
        assert given is not None
        self._rounding = torch.finfo(given.dtype).eps
        self._multipliers = _multipliers(model, block)
        self._roles = _roles(model, block)
        self._norms = {name for name, module in block.named_modules() if "norm" in type(module).__name__.lower()}
        self.pre = next(tap for tap in taps if (tap.module, tap.end) == ("", "input"))
        self.post = next(tap for tap in taps if (tap.module, tap.end) == ("", "output"))
        self.inner = [tap for tap in taps if tap.module != ""]
        self._added = _distinct(self.inner, (self.pre, self.post))
        self._values = torch.stack([tap.value for tap in [*self._added, self.pre]])

    def roles(self, start: Tap, added: _Added) -> list[Role | None]:
        """Of each term that was added to the stream where it was at ``start``."""
        return [self._role(tap, start, is_alone=len(added.terms) == 1) for tap, _ in added.terms]

    def _role(self, tap: Tap, start: Tap, *, is_alone: bool) -> Role | None:
        """Of the innermost part around a tensor that has one.

        Else, of a tensor that is all that is added, the role of what ran before it since the stream was at ``start``.
        """
        names = tap.module.split(".")
        paths = [".".join(names[:length]) for length in range(len(names), 0, -1)]
        own: Role | None = next((self._roles[path] for path in paths if path in self._roles), None)
        if own is not None or not is_alone:
            return own
        ran = {self._roles.get(name) for name in self._recorder.began(start.order, tap.order) - self._norms}
        mixers: list[Role] = [role for role, _ in _ROLES if role in ran and role != "mlp"]
        if len(mixers) == 1:
            return mixers[0]
        return "mlp" if not mixers and start is not self.pre else None

    def added(self, start: Tap, end: Tap, n_terms: int) -> _Added | None:
        """What was added to the stream between two of its states, by parts that ran in between."""
        between = [i for i, tap in enumerate(self._added) if start.order < tap.order < end.order]
        change = end.value - start.value
        found = find_sum(change, self._values, between, n_terms, self._rounding, self._multipliers)
        if found is None:
            return None
        terms = [(self._added[i], factor) for i, factor in zip(found.indices, found.factors, strict=True)]
        return _Added(terms, found.error)

    def fewest_added(self, start: Tap, end: Tap, most_terms: int) -> _Added | None:
        """As `added`, of as few terms as will do."""
        found = (self.added(start, end, n_terms) for n_terms in range(1, most_terms + 1))
        return next((one for one in found if one), None)

    def states(self, state: Tap) -> list[Tap]:
        """A state of the stream as it goes on: itself, or the output of a norm that reads it."""
        readers = {tap.module for tap in self.inner if tap.end == "input" and tap.value.equal(state.value)}
        return [state, *(tap for tap in self.inner if tap.end == "output" and tap.module in readers & self._norms)]

    def sources(self, state: Tap) -> list[Tap]:
        """What a state of the stream was: itself, or the input of a norm that gave it."""
        givers = {tap.module for tap in self.inner if tap.end == "output" and tap.value.equal(state.value)}
        return [state, *(tap for tap in self.inner if tap.end == "input" and tap.module in givers & self._norms)]


class _Sequence(NamedTuple):
    """Attention, then an MLP that reads the sum."""

    mid: Tap
    first: tuple[Tap, _Added]
    """State of the stream to which attention is added, and what is added."""
    second: tuple[Tap, _Added]
    """The same of the MLP."""
    is_plain: bool
    """The stream is nowhere normalised on its way."""

    @property
    def error(self) -> float:
        """The larger of both."""
        return max(self.first[1].error, self.second[1].error)


def _in_sequence(parts: _Parts, most_terms: int) -> Anatomy | None:
    """Blocks that add attention, then an MLP that reads the sum."""
    found = list(_sequences(parts, most_terms))
    if not found:
        return None
    best = min(found, key=lambda one: (not one.is_plain, one.error > _EXACT, one.mid.order))
    place = Place(terms=[Term(module=best.mid.module, end=best.mid.end)], error=best.error)
    mlp_first = "mlp" in parts.roles(*best.first)
    return {
        "resid_mid": place if best.is_plain and not mlp_first else Refusal(_MLP_FIRST if mlp_first else _POST_NORM),
        **_sublayers(parts, [best.first, best.second]),
    }


def _sequences(parts: _Parts, most_terms: int) -> Iterator[_Sequence]:
    for mid in parts.inner:
        if mid.end != "input":
            continue
        for start in parts.states(parts.pre):
            first = parts.fewest_added(start, mid, most_terms)
            if first is None:
                continue
            for between, end in product(parts.states(mid), parts.sources(parts.post)):
                second = parts.fewest_added(between, end, most_terms)
                if second is not None:
                    is_plain = (start, between, end) == (parts.pre, mid, parts.post)
                    yield _Sequence(mid, (start, first), (between, second), is_plain)


def _at_once(parts: _Parts, n_terms: int, no_mid: str) -> Anatomy | None:
    """Blocks whose sublayers all read what the block is given; several of them are attention and MLP."""
    added = parts.added(parts.pre, parts.post, n_terms)
    if added is None:
        return None
    roles = parts.roles(parts.pre, added)
    if n_terms > 1 and (None in roles or not {"attention", "mlp"} <= set(roles)):
        return None
    return {"resid_mid": Refusal(no_mid), **_sublayers(parts, [(parts.pre, added)])}


def _sublayers(parts: _Parts, additions: list[tuple[Tap, _Added]]) -> Anatomy:
    """attn_out and mlp_out among what was added to states of the stream."""
    sites: Anatomy = {}
    wanted: tuple[tuple[Site, Role], ...] = (("attn_out", "attention"), ("mlp_out", "mlp"))
    for site, role in wanted:
        for start, added in additions:
            roles = parts.roles(start, added)
            terms = [term for term, known in zip(added.terms, roles, strict=True) if known == role]
            if terms and None not in roles:
                named = [Term(module=tap.module, end=tap.end, factor=factor) for tap, factor in terms]
                sites[site] = Place(terms=named, error=added.error)
        if site not in sites:
            others = " and ".join(dict.fromkeys(tap.module for _, added in additions for tap, _ in added.terms))
            sites[site] = Refusal(f"all that such a block adds to its stream comes from {others}")
    return sites


def _distinct(taps: list[Tap], known: tuple[Tap, ...]) -> list[Tap]:
    """One of each value: an output rather than an input, of the outermost module; none that is known."""
    seen = {one.value.numpy().tobytes() for one in known}
    kept: list[Tap] = []
    for tap in sorted(taps, key=lambda tap: (tap.end == "input", tap.module.count("."), tap.order)):
        key = tap.value.numpy().tobytes()
        if key not in seen:
            seen.add(key)
            kept.append(tap)
    return kept


def _roles(model: "PreTrainedModel", block: nn.Module) -> dict[str, Role]:
    """By path inside the block: from the attribute's name, else from its class's, first without the model's own name."""

    def role(name: str) -> Role | None:
        return next((role for role, words in _ROLES if words.search(name.lower())), None)

    found: dict[str, Role] = {}
    for path, module in block.named_modules():
        kind = type(module).__name__
        own = kind[len(os.path.commonprefix([kind, type(model).__name__])) :]  # noqa: RUF071 (of names, not of paths)
        known = role(path.rpartition(".")[2]) or role(own) or (None if "norm" in kind.lower() else role(kind))
        if path and known:
            found[path] = known
    return found


def _multipliers(model: "PreTrainedModel", block: nn.Module) -> list[float]:
    """Numbers that may stand between a sublayer and the stream.

    Those of the configuration, as they are or over sqrt(depth), and the block's own: attributes and parameters of one element.
    """
    numbers = [*vars(model.config.get_text_config()).values(), *vars(block).values()]
    depth = len(find_blocks(model)) ** 0.5
    known = [scaled for number in numbers if isinstance(number, float) for scaled in (number, number / depth)]
    tensors = [*block.parameters(), *block.buffers()]
    known += [float(tensor) for tensor in tensors if tensor.numel() == 1]
    return [number for number in known if number not in (0.0, 1.0)]
