"""Where the sites of a block are: found by equations that hold, not by the names of its parts.

One forward pass records every tensor that a part of the block is given or gives. The sites are those for which

    resid_pre + attn_out = resid_mid,    resid_mid + mlp_out = resid_post        (blocks in sequence)
    resid_pre + attn_out + mlp_out = resid_post                                  (parallel blocks)

holds to rounding. So norms after a sublayer, constant multipliers, experts that are summed, and residuals added inside a
sublayer are all found, and a site for which no equation holds is refused (docs/decisions/0010-proof-of-capture.md).
"""

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field
from torch import nn

from core.schema import Schema
from hookpoints.parts import Added, Parts, Role
from hookpoints.recorder import BlockRecorder, End, Tap
from hookpoints.sites import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
_OTHER_SUBLAYERS = "its blocks are not attention (or a recurrence) and then one MLP, so no stream lies between the two"
_TOO_LITTLE = "adds less than the rounding of the stream, so it cannot be proved where; use resid_pre or resid_post"
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
    carriers: list[Term] = Field(default_factory=list)
    """What is added to the stream before it reaches a site that is no part's own: changed there, the site changes."""


class Refusal(NamedTuple):
    """Why a block has no such site."""

    reason: str


Anatomy = dict[Site, Place | Refusal]
_INNER: tuple[Site, ...] = ("resid_mid", "attn_out", "mlp_out")


def anatomy(model: "PreTrainedModel", block: nn.Module, recorder: BlockRecorder) -> Anatomy:
    """Every site of a block that was recorded, or why there is none; from the simplest equation that holds."""
    ends: Anatomy = {
        "resid_pre": Place(terms=[Term(module="", end="input")]),
        "resid_post": Place(terms=[Term(module="", end="output")]),
    }
    parts = Parts(model, block, recorder)
    found = next((attempt for attempt in _attempts(parts) if attempt is not None), None)
    return ends | (found or dict.fromkeys(_INNER, Refusal(_NO_EQUATION)))


def _attempts(parts: Parts) -> Iterator[Anatomy | None]:
    yield _in_sequence(parts, 1)
    yield _at_once(parts, 2, _PARALLEL)
    yield _at_once(parts, 1, _ONE_SUBLAYER)
    yield _in_sequence(parts, 2)
    yield _at_once(parts, 3, _PARALLEL)


class _Sequence(NamedTuple):
    """Two sums, of which the second is added to what the first gives."""

    mid: Tap
    first: Added
    """To what the block is given."""
    second: Added
    """To the sum."""
    is_plain: bool
    """The stream is nowhere normalised on its way."""

    @property
    def is_usual(self) -> bool:
        """The first is of attention and its like alone, the second begins with an MLP and has nothing of theirs."""
        begins = min(zip(self.second.taps, self.second.roles, strict=True), key=lambda one: one[0].order)
        mixers = {"attention", "recurrence"}
        return set(self.first.roles) <= mixers and begins[1] == "mlp" and not mixers & set(self.second.roles)

    @property
    def rank(self) -> tuple[bool, bool, bool, int]:
        """Smaller is better."""
        error = max(self.first.error, self.second.error)
        return not self.is_plain, not self.is_usual, error > _EXACT, self.mid.order


def _in_sequence(parts: Parts, most_terms: int) -> Anatomy | None:
    """Blocks that add something, then something that reads the sum."""
    best = min(_sequences(parts, most_terms), key=lambda one: one.rank, default=None)
    if best is None:
        return None
    return {"resid_mid": _between(best), **_sublayers(parts, [best.first, best.second], is_plain=best.is_plain)}


def _between(best: _Sequence) -> Place | Refusal:
    if (set(best.first.roles), set(best.second.roles)) == ({"mlp"}, {"attention"}):
        return Refusal(_MLP_FIRST)
    if not best.is_plain:
        return Refusal(_POST_NORM)
    if not best.is_usual:
        return Refusal(_OTHER_SUBLAYERS)
    term = Term(module=best.mid.module, end=best.mid.end)
    return Place(terms=[term], error=best.first.error, carriers=_terms(best.first))


def _terms(added: Added, role: Role | None = None) -> list[Term]:
    """Those of a role, or all."""
    return [
        Term(module=tap.module, end=tap.end, factor=factor)
        for tap, factor, known in zip(added.taps, added.factors, added.roles, strict=True)
        if role is None or known == role
    ]


def _sequences(parts: Parts, most_terms: int) -> Iterator[_Sequence]:
    for mid in parts.inner:
        if mid.end != "input":
            continue
        for start in parts.states(parts.pre):
            first = parts.fewest_added(start, mid, most_terms)
            if first is None:
                continue
            for between, end in product(parts.states(mid), parts.sources(parts.post)):
                second = parts.fewest_added(between, end, most_terms)
                if second is None:
                    continue
                is_plain = (start.order, between.order, end.order) == (parts.pre.order, mid.order, parts.post.order)
                yield _Sequence(mid, first, second, is_plain)


def _at_once(parts: Parts, n_terms: int, no_mid: str) -> Anatomy | None:
    """Blocks whose sublayers all read what the block is given; several of them are attention and MLP."""
    added = parts.added(parts.pre, parts.post, n_terms)
    if added is None:
        return None
    if n_terms > 1 and (None in added.roles or not {"attention", "mlp"} <= set(added.roles)):
        return None
    missing = parts.ran & {"attention", "mlp"} - set(added.roles)
    no_mid = f"its {' and '.join(sorted(missing))} {_TOO_LITTLE}" if n_terms == 1 and missing else no_mid
    return {"resid_mid": Refusal(no_mid), **_sublayers(parts, [added], is_plain=True)}


def _sublayers(parts: Parts, additions: list[Added], *, is_plain: bool) -> Anatomy:
    """attn_out and mlp_out: all that attention, or MLPs, add to the stream."""
    return {
        "attn_out": _of_role(parts, "attention", additions, is_plain=is_plain),
        "mlp_out": _of_role(parts, "mlp", additions, is_plain=is_plain),
    }


def _of_role(parts: Parts, role: Role, additions: list[Added], *, is_plain: bool) -> Place | Refusal:
    chosen = [added for added in additions if role in added.roles]
    if not chosen:
        others = list(dict.fromkeys(tap.module for added in additions for tap in added.taps))
        if role in parts.ran and len(others) == 1:
            return Refusal(f"its {role} {_TOO_LITTLE}")
        return Refusal(f"all that such a block adds to its stream comes from {' and '.join(others)}")
    if any(None in added.roles for added in chosen):
        return Refusal(
            f"beside its {role}, something is added to the stream that is neither attention nor an MLP by its name"
        )
    if len(chosen) > 1 and not is_plain:
        return Refusal(f"such a block has more than one {role} sublayer, and its stream is normalised between them")
    terms = [term for added in chosen for term in _terms(added, role)]
    return Place(terms=terms, error=max(added.error for added in chosen))
