"""Names that a study uses for losses and tasks; needs no torch, so that a study is validated before torch is imported."""

from typing import Literal

LossName = Literal["squared", "logistic", "hinge"]
TaskName = Literal["product", "teacher", "xor"]
CLASSIFICATION: frozenset[LossName] = frozenset({"logistic", "hinge"})
"""Losses of labels -1 and 1."""
