"""The tensors recorded in one block, what their parts are for, and which of them add up to a change of the stream."""

import os.path
import re
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hookpoints.blocks import find_blocks
from hookpoints.equations import adds_up, find_sum
from hookpoints.recorder import BlockRecorder, Tap

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Role = Literal["attention", "mlp", "recurrence"]
_ROLES: tuple[tuple[Role, re.Pattern[str]], ...] = (
    ("attention", re.compile(r"attn|attention")),
    ("mlp", re.compile(r"mlp|ffn|feed_?forward|moe|expert")),
    ("recurrence", re.compile(r"mamba|ssm|rwkv|recurrent|lstm|shortconv|^conv$")),
)
_NEAR = 2.0
"""In roundings of the stream: tensors that are nearer cannot be told apart."""
_MATRICES_OF_AN_MLP = 2


class Added(NamedTuple):
    """Tensors with factors whose sum was added to the stream."""

    taps: list[Tap]
    factors: list[float]
    roles: list[Role | None]
    error: float


class Parts:
    """The tensors recorded in a block, and the sums among them."""

    def __init__(self, model: "PreTrainedModel", block: nn.Module, recorder: BlockRecorder) -> None:
        given, taps = recorder.stream_in, recorder.taps()
        assert given is not None
        self._recorder = recorder
        self._rounding = torch.finfo(given.dtype).eps
        self._multipliers = _multipliers(model, block)
        self._roles = _roles(model, block)
        self._norms = {name for name, module in block.named_modules() if "norm" in type(module).__name__.lower()}
        self._matrices = {
            name
            for name, module in block.named_modules()
            if any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
        }
        self.pre = next(tap for tap in taps if (tap.module, tap.end) == ("", "input"))
        self.post = next(tap for tap in taps if (tap.module, tap.end) == ("", "output"))
        self.inner = [tap for tap in taps if tap.module != ""]
        self._distinct, self._index = _distinct(taps)
        self._values = torch.stack([tap.value for tap in self._distinct])
        self._gram = self._values @ self._values.T
        self._is_near = _is_near(self._gram, _NEAR * self._rounding * self._values.shape[1] ** 0.5)
        states = [*self.states(self.pre), *self.sources(self.post)]
        self._is_state = self._is_near[[self._index[state.order] for state in states]].any(dim=0)

    @property
    def ran(self) -> set[Role]:
        """Roles of all that ran in the block."""
        began = self._recorder.began(self.pre.order, self.post.order)
        return {self._roles[name] for name in began if name in self._roles}

    def _role(self, tap: Tap, start: Tap, *, is_alone: bool) -> Role | None:
        """Of the innermost part around a tensor that has one.

        Else, of a tensor that is all that is added, the role of what ran before it since the stream was at ``start``; two
        matrices or more that mix no tokens are an MLP.
        """
        names = tap.module.split(".")
        paths = [".".join(names[:length]) for length in range(len(names), 0, -1)]
        own: Role | None = next((self._roles[path] for path in paths if path in self._roles), None)
        if own is not None or not is_alone:
            return own
        began = self._recorder.began(start.order, tap.order) - self._norms
        ran = {self._roles.get(name) for name in began}
        mixers: list[Role] = [role for role, _ in _ROLES if role in ran and role != "mlp"]
        if len(mixers) == 1:
            return mixers[0]
        is_mlp = not mixers and start is not self.pre and len(began & self._matrices) >= _MATRICES_OF_AN_MLP
        return "mlp" if is_mlp else None

    def added(self, start: Tap, end: Tap, n_terms: int) -> Added | None:
        """What was added to the stream between two of its states, by parts that ran in between; no state itself."""
        first, last = self._index[start.order], self._index[end.order]
        barred = self._is_state | self._is_near[first] | self._is_near[last]
        between = [i for i, tap in enumerate(self._distinct) if start.order < tap.order < end.order and not barred[i]]
        change = self._values[last] - self._values[first]

        def holds(indices: tuple[int, ...], factors: tuple[float, ...]) -> bool:
            return adds_up(start.rows, end.rows, [self._distinct[i].rows for i in indices], factors)

        found = find_sum(change, self._values, self._gram, between, n_terms, self._rounding, self._multipliers, holds)
        if found is None:
            return None
        taps = [self._distinct[i] for i in found.indices]
        roles: list[Role | None] = [self._role(tap, start, is_alone=n_terms == 1) for tap in taps]
        return Added(taps, list(found.factors), roles, found.error)

    def fewest_added(self, start: Tap, end: Tap, most_terms: int) -> Added | None:
        """As `added`, of as few terms as will do."""
        found = (self.added(start, end, n_terms) for n_terms in range(1, most_terms + 1))
        return next((one for one in found if one), None)

    def states(self, state: Tap) -> list[Tap]:
        """A state of the stream as it goes on: itself, or the output of a norm that reads it."""
        readers = {tap.module for tap in self.inner if tap.end == "input" and self._are_one(tap, state)}
        return [state, *(tap for tap in self.inner if tap.end == "output" and tap.module in readers & self._norms)]

    def sources(self, state: Tap) -> list[Tap]:
        """What a state of the stream was: itself, or the input of a norm that gave it."""
        givers = {tap.module for tap in self.inner if tap.end == "output" and self._are_one(tap, state)}
        return [state, *(tap for tap in self.inner if tap.end == "input" and tap.module in givers & self._norms)]

    def _are_one(self, tap: Tap, other: Tap) -> bool:
        return self._index[tap.order] == self._index[other.order]


def _distinct(taps: list[Tap]) -> tuple[list[Tap], dict[int, int]]:
    """One of each value (an output rather than an input, of the outermost module), and by each tap's order which one is its."""
    place: dict[bytes, int] = {}
    kept: list[Tap] = []
    index: dict[int, int] = {}
    for tap in sorted(taps, key=lambda tap: (tap.end == "input", tap.module.count("."), tap.order)):
        key = tap.value.numpy().tobytes()
        if key not in place:
            place[key] = len(kept)
            kept.append(tap)
        index[tap.order] = place[key]
    return kept, index


def _is_near(gram: Tensor, distance: float) -> Tensor:
    """``[n, n]``: which of the tensors with these inner products are within a distance of each other, or of its negative."""
    squares = gram.diagonal()
    return squares[:, None] + squares - 2 * gram.abs() <= distance**2


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
    named = [*vars(model.config.get_text_config()).items(), *vars(block).items()]
    numbers = [value for key, value in named if isinstance(value, float) or (type(value) is int and "mult" in key)]
    depth = len(find_blocks(model)) ** 0.5
    known = [scaled for number in numbers for scaled in (float(number), number / depth)]
    tensors = [*block.parameters(), *block.buffers(), *(value for _, value in named if isinstance(value, Tensor))]
    known += [float(tensor.item()) for tensor in tensors if tensor.numel() == 1]
    return [number for number in known if number not in (0.0, 1.0)]
