"""Sites read while a model runs: hooks on their terms, which add up to the site."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hookpoints.anatomy import Place, Term
from hookpoints.blocks import Stop, find_blocks, given_tensor, returned_tensor
from hookpoints.sites import Hookpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _Read(NamedTuple):
    """One term of one hookpoint."""

    hook_name: str
    number: int
    module: nn.Module
    term: Term


class SiteReads:
    """What hookpoints were in the last forward pass; attach its handles before it.

    Args:
        model: to read.
        places: where each hookpoint is read.
        stops: whether the forward pass ends as soon as all of them have been seen.
    """

    def __init__(self, model: "PreTrainedModel", places: Mapping[Hookpoint, Place], *, stops: bool) -> None:
        blocks = find_blocks(model)
        self._stops = stops
        self._reads = [
            _Read(hookpoint.name, number, blocks[hookpoint.layer].get_submodule(term.module), term)
            for hookpoint, place in places.items()
            for number, term in enumerate(place.terms)
        ]
        self._seen: dict[tuple[str, int], Tensor] = {}

    def handles(self) -> Iterator[RemovableHandle]:
        """Hooks on every term."""
        for read in self._reads:
            yield self._hook(read)

    def take(self, shape: tuple[int, int]) -> dict[str, Tensor]:
        """Activations by hook name, ``[*shape, d_in]``; they are let go. Raises ValueError where a part that is read did not
        run."""
        seen, self._seen = self._seen, {}
        if len(seen) < len(self._reads):
            missing = next(read for read in self._reads if (read.hook_name, read.number) not in seen)
            raise ValueError(
                f"{missing.hook_name} is read at {missing.term.module or 'its block'}, which does not run on rows of "
                f"{shape[1]} tokens"
            )
        values: dict[str, Tensor] = {}
        for read in self._reads:
            value = seen[read.hook_name, read.number]
            values[read.hook_name] = values[read.hook_name] + value if read.number else value
        return {name: value.reshape(*shape, value.shape[-1]) for name, value in values.items()}

    def forget(self) -> None:
        """What a forward pass that failed has left."""
        self._seen = {}

    def _hook(self, read: _Read) -> RemovableHandle:
        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._keep(read, given_tensor(args, kwargs))

        def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            self._keep(read, returned_tensor(output))

        if read.term.end == "input":
            return read.module.register_forward_pre_hook(before, with_kwargs=True)
        return read.module.register_forward_hook(after)

    def _keep(self, read: _Read, value: Tensor | None) -> None:
        """A copy: some models add to a tensor in place after they have handed it on."""
        assert value is not None
        self._seen[read.hook_name, read.number] = value * read.term.factor if read.term.factor != 1 else value.clone()
        if self._stops and len(self._seen) == len(self._reads):
            raise Stop
