"""The base of every configuration model."""

from pydantic import BaseModel, ConfigDict


class Schema(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
