"""Some held-out rows as an SAE sees them."""

from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from eval.saes.spread import Spread


class Rows(NamedTuple):
    """Activations, their latents and reconstructions."""

    x: Tensor
    """``[n, d_in]``."""
    latents: Tensor
    """``[n, d_sae]``, signed."""
    x_hat: Tensor
    """``[n, d_in]``."""

    def only(self, chosen: Tensor) -> "Rows":
        """Rows that ``chosen [n]`` marks."""
        return self if bool(chosen.all()) else Rows(*(part[chosen] for part in self))


class Firings(NamedTuple):
    """Latents that are not zero, ``[n]`` each, on the CPU."""

    row: Tensor
    latent: Tensor
    value: Tensor
    """float64."""


class Batch:
    """Some held-out rows as an SAE sees them: all, those that the norm filter keeps, and those without the top rows."""

    def __init__(self, everything: Rows, is_outlier: Tensor, document: Tensor, spread: Spread) -> None:
        self.everything = everything
        self.kept = everything.only(~is_outlier)
        self.document = document[~is_outlier.cpu()]
        """``[n]`` int64: of the kept rows, on the CPU."""
        self.spread = spread

    @cached_property
    def without_top(self) -> Rows:
        """Kept rows but for the hundredth that lies farthest from the mean."""
        return self.kept.only(~self.spread.is_top(self.kept.x))

    @cached_property
    def firings(self) -> Firings:
        """Of the kept rows."""
        row, latent = self.kept.latents.nonzero(as_tuple=True)
        return Firings(row.cpu(), latent.cpu(), self.kept.latents[row, latent].double().cpu())
