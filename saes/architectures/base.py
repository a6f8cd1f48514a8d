"""What an architecture is: a frozen record of its settings and size, with pure functions of an SAE's parameters.

`saes.sae.SAE` holds the parameters and `saes.learner` trains them; everything in which architectures differ they ask of
the record. A record needs no torch until its functions run, so that a study is validated before torch is imported: an
architecture's file imports torch inside its functions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor

    from saes.config import LearnerConfig
    from saes.views import JumpReLUView

Gradients: TypeAlias = "dict[str, Tensor]"
"""Parameter name -> gradient of the loss, shaped as the parameter."""
_SIZES = ("d_in", "d_sae")


class Objective(NamedTuple):
    """One evaluation of a training objective; scalars unless said otherwise."""

    loss: Tensor
    """reconstruction + sparsity + auxiliary."""
    reconstruction: Tensor
    """Mean over the batch of ||x - xhat||^2."""
    sparsity: Tensor
    """The penalty, lambda included."""
    auxiliary: Tensor
    """The auxiliary loss; 0 where there is none."""
    l0: Tensor
    """Mean number of non-zero latents per row."""
    fired: Tensor
    """``[d_sae]`` bool: latents non-zero on some row."""


class Parameters(Protocol):
    """An SAE as the functions of its architecture see it: `saes.sae.SAE`."""

    @property
    def cfg(self) -> Architecture: ...
    @property
    def W_enc(self) -> Tensor: ...
    @property
    def W_dec(self) -> Tensor: ...
    @property
    def b_dec(self) -> Tensor: ...
    def __getattr__(self, name: str) -> Tensor: ...
    def pre_activations(self, x: Tensor) -> Tensor: ...
    def decode(self, latents: Tensor) -> Tensor: ...
    def normalise_decoder(self) -> None: ...
    def named_parameters(self) -> Iterator[tuple[str, Tensor]]: ...


@dataclass(frozen=True)
class Architecture(ABC):
    """An architecture at its size; a subclass adds the settings that a sweep may give as fields with defaults.

    Raises ValueError where a size is below 1; a subclass checks its own settings.
    """

    name: ClassVar[str]
    """In studies and folders."""
    title: ClassVar[str]
    """In figures and sentences."""
    learner_settings: ClassVar[tuple[str, ...]]
    """Fields of `LearnerConfig` that mean something for it and that a sweep may set for itself."""

    d_in: int
    """Width of the activations."""
    d_sae: int
    """Width: number of latents."""

    def __post_init__(self) -> None:
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    # Shape and names

    @property
    @abstractmethod
    def is_signed(self) -> bool:
        """Whether latents take both signs."""

    @property
    @abstractmethod
    def vectors(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters beside W_enc, W_dec and b_dec, by name; they start at 0 and end in d_sae."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all parameters, by name."""
        matrices = {"W_enc": (self.d_in, self.d_sae), "W_dec": (self.d_sae, self.d_in), "b_dec": (self.d_in,)}
        return matrices | self.vectors

    @property
    def n_params(self) -> int:
        """2 d_in d_sae + d_in + vectors."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def variant(self) -> dict[str, Any]:
        """What tells SAEs of this architecture apart beside their size, for columns of a table."""
        return {name: value for name, value in asdict(self).items() if name not in _SIZES}

    @property
    def id_parts(self) -> list[str]:
        """The settings in names of folders; those that are off are left out."""
        given = {field.name: getattr(self, field.name) for field in own_fields(type(self))}
        return [name if value is True else f"{name}_{value}" for name, value in given.items() if value is not False]

    def family_columns(self, learner: LearnerConfig) -> dict[str, Any]:
        """What tells families of SAEs apart, by column of a table: all that differs but hookpoint, lambda and seed."""
        of_learner = {name: getattr(learner, name) for name in self.learner_settings}
        return {"architecture": self.name, "d_sae": self.d_sae, **self.variant, **of_learner}

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; `saes.architectures.architecture_of` is the inverse."""
        return {"architecture": self.name, **asdict(self)}

    # The function that an SAE computes

    @abstractmethod
    def encode(self, sae: Parameters, x: Tensor) -> Tensor:
        """Latents ``[..., d_sae]`` of ``x [..., d_in]``."""

    @abstractmethod
    def fold(self, sae: Parameters, scale: float) -> None:
        """In place: from an SAE on ``scale`` times the activations to the one on the activations that equals it."""

    @abstractmethod
    def one_sided_view(self, sae: Parameters) -> JumpReLUView:
        """The lossless form with non-negative latents, for tools that expect them. Raises ValueError where there is none."""

    # Training

    @abstractmethod
    def start(self, sae: Parameters, x: Tensor, learner: LearnerConfig) -> None:
        """Before the first step, on its scaled batch ``x [batch, d_in]``: whatever depends on data."""

    @abstractmethod
    def gradients(
        self,
        sae: Parameters,
        x: Tensor,
        sparsity_coefficient: float,
        learner: LearnerConfig,
        compute_dtype: torch.dtype,
    ) -> tuple[Objective, Gradients]:
        """The objective on scaled rows ``x [batch, d_in]`` and its gradient in every parameter."""

    @abstractmethod
    def project(self, sae: Parameters) -> None:
        """Back onto the constraints, in place, after every step."""

    @abstractmethod
    def reset(self, sae: Parameters, x: Tensor, dead: Tensor, learner: LearnerConfig) -> tuple[str, ...]:
        """Bring latents ``dead [n]`` back to life on rows ``x [batch, d_in]``; names of the vectors whose entries moved.

        Empty where an architecture has no resets.
        """


def own_fields(kind: type[Architecture]) -> list[Any]:
    """The dataclass fields that an architecture adds and that may be given: what a sweep may say beside its width."""
    return [field for field in fields(kind) if field.init and field.name not in _SIZES]
