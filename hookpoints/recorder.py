"""What the parts of one block are given and give during a forward pass."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hookpoints.blocks import first_tensor

End = Literal["input", "output"]


class Tap(NamedTuple):
    """One tensor as wide as the stream."""

    module: str
    """Path inside the block; empty for the block itself."""
    end: End
    order: int
    """When it was seen."""
    value: Tensor
    """``[n_tokens * d_model]`` float64, each token over the root mean square of the stream there."""


class BlockRecorder:
    """Attach its handles before a forward pass; afterwards ask for what was seen. Copies, so later changes do not show."""

    def __init__(self, block: nn.Module, *, inside: bool) -> None:
        self._block, self._inside = block, inside
        self._events: list[tuple[str, End, Tensor]] = []
        self._n_calls: Counter[str] = Counter()

    def handles(self) -> Iterator[RemovableHandle]:
        """Hooks on the block, and on every module inside it where that is wanted."""
        for name, module in self._block.named_modules() if self._inside else [("", self._block)]:
            yield from self._hooks(name, module)

    @property
    def n_runs(self) -> int:
        """How often the block ran."""
        return self._n_calls[""]

    @property
    def stream_in(self) -> Tensor | None:
        """What the block was given, as it came."""
        return next((value for name, end, value in self._events if (name, end) == ("", "input")), None)

    @property
    def stream_out(self) -> Tensor | None:
        """What the block gave."""
        return next((value for name, end, value in self._events if (name, end) == ("", "output")), None)

    def began(self, start: int, stop: int) -> set[str]:
        """Parts that began to run between two moments."""
        return {name for name, end, _ in self._events[start + 1 : stop] if end == "input"}

    def taps(self) -> list[Tap]:
        """Of modules that ran once and whose tensor is as large as the stream."""
        given, gave = self.stream_in, self.stream_out
        if given is None or gave is None:
            return []
        width = given.shape[-1]

        def flat(value: Tensor) -> Tensor:
            return value.reshape(-1, width).double().cpu()

        scale = (flat(given).square() + flat(gave).square()).mean(dim=1, keepdim=True).sqrt()
        scale = scale.clamp_min(torch.finfo(torch.float32).tiny)
        return [
            Tap(name, end, order, (flat(value) / scale).flatten())
            for order, (name, end, value) in enumerate(self._events)
            if value.shape[-1] == width and value.numel() == given.numel() and self._n_calls[name] == 1
        ]

    def _hooks(self, name: str, module: nn.Module) -> Iterator[RemovableHandle]:
        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._n_calls[name] += 1
            self._record(name, "input", first_tensor(*args, *kwargs.values()))

        def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            self._record(name, "output", first_tensor(output))

        yield module.register_forward_pre_hook(before, with_kwargs=True)
        yield module.register_forward_hook(after)

    def _record(self, name: str, end: End, value: Tensor | None) -> None:
        if value is not None:
            self._events.append((name, end, value.detach().clone()))
