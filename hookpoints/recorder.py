"""What the parts of one block are given and give during a forward pass."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hookpoints.blocks import float_tensors, given_tensor, returned_tensor

End = Literal["input", "output"]
_N_AT_EACH_END = 12
_N_BETWEEN = 8
_SMALL = 0.05
"""Of the stream's root mean square: what counts as small in one of its elements."""


class Tap(NamedTuple):
    """One tensor as wide as the stream."""

    module: str
    """Path inside the block; empty for the block itself."""
    end: End
    order: int
    """When it was seen."""
    rows: Tensor
    """``[n_sampled, d_model]``, as it was."""
    value: Tensor
    """``[n_sampled * d_model]`` float64, each element over the size of the stream there, so that rounding is alike everywhere."""


class _Event(NamedTuple):
    module: str
    end: End
    rows: Tensor | None
    """``[n_sampled, d_model]``; None of a tensor that is not as large as the stream."""


class BlockRecorder:
    """Attach its handles before a forward pass; afterwards ask for what was seen. Copies, so later changes do not show.

    Of long rows a sample of the tokens is kept: the first, the last, and some between.
    """

    def __init__(self, block: nn.Module, *, inside: bool) -> None:
        self._block, self._inside = block, inside
        self._events: list[_Event] = []
        self._n_calls: Counter[str] = Counter()
        self.stream_in: Tensor | None = None
        """What the block was given, as it came."""
        self.stream_out: Tensor | None = None
        """What the block gave."""
        self.beside_in: list[Tensor] = []
        """Other tensors of the stream's shape that it was given."""
        self.beside_out: list[Tensor] = []
        """Other tensors of the stream's shape that it gave."""

    def handles(self) -> Iterator[RemovableHandle]:
        """Hooks on the block, and on every module inside it where that is wanted."""
        for name, module in self._block.named_modules() if self._inside else [("", self._block)]:
            yield from self._hooks(name, module)

    def began(self, start: int, stop: int) -> set[str]:
        """Parts that began to run between two moments."""
        return {event.module for event in self._events[start + 1 : stop] if event.end == "input"}

    def taps(self) -> list[Tap]:
        """Of modules that ran once and whose tensor is as large as the stream."""
        given, gave = (self._rows(stream) for stream in (self.stream_in, self.stream_out))
        assert given is not None
        assert gave is not None
        given, gave = given.double().cpu(), gave.double().cpu()
        typical = (given.square() + gave.square()).mean(dim=1, keepdim=True).sqrt()
        scale = (given.abs() + gave.abs() + _SMALL * typical).clamp_min(torch.finfo(torch.float32).tiny)
        return [
            Tap(event.module, event.end, order, event.rows.cpu(), (event.rows.double().cpu() / scale).flatten())
            for order, event in enumerate(self._events)
            if event.rows is not None and self._n_calls[event.module] == 1
        ]

    def _hooks(self, name: str, module: nn.Module) -> Iterator[RemovableHandle]:
        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._n_calls[name] += 1
            value = given_tensor(args, kwargs)
            if name == "" and value is not None:
                self.stream_in = value.detach().clone()
                self.beside_in = _beside(self.stream_in, args, kwargs)
            self._events.append(_Event(name, "input", self._rows(value)))

        def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            value = returned_tensor(output)
            if name == "" and value is not None:
                self.stream_out = value.detach().clone()
                self.beside_out = _beside(self.stream_out, output)
            self._events.append(_Event(name, "output", self._rows(value)))

        yield module.register_forward_pre_hook(before, with_kwargs=True)
        yield module.register_forward_hook(after)

    def _rows(self, value: Tensor | None) -> Tensor | None:
        """A copy of the sampled tokens' rows; None unless the tensor is as large as the stream."""
        stream = self.stream_in
        if value is None or stream is None or value.shape[-1] != stream.shape[-1] or value.numel() != stream.numel():
            return None
        rows = value.detach().reshape(-1, value.shape[-1])
        return rows[_sample(len(rows)).to(rows.device)]


def _sample(n_tokens: int) -> Tensor:
    """Places of the tokens that are kept: all of a short row."""
    if n_tokens <= 2 * _N_AT_EACH_END + _N_BETWEEN:
        return torch.arange(n_tokens)
    between = torch.linspace(_N_AT_EACH_END, n_tokens - _N_AT_EACH_END - 1, _N_BETWEEN).round().long()
    return torch.cat([torch.arange(_N_AT_EACH_END), between, torch.arange(n_tokens - _N_AT_EACH_END, n_tokens)])


def _beside(stream: Tensor, *parts: Any) -> list[Tensor]:
    """Tensors of the stream's shape and of another value."""
    same_shape = [value for value in float_tensors(*parts) if value.shape == stream.shape]
    return [value.detach().clone() for value in same_shape if not torch.equal(value, stream)]
