"""Configuration models: their base, unions told apart by a key, and what differs between two configurations."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import core_schema


class Schema(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ChosenBy:
    """Marks a field whose schema depends on its value: ``choose(value)`` is the model to read it with.

    Unlike a union it is asked when a value is read, so members may be added at any time. ``choose`` may raise ValidationError.
    """

    def __init__(self, choose: Callable[[Any], type[BaseModel]]) -> None:
        self.choose = choose

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._read, serialization=core_schema.simple_ser_schema("any")
        )

    def _read(self, value: Any) -> BaseModel:
        return value if isinstance(value, BaseModel) else self.choose(value).model_validate(value)


def source_tag(value: Any, tags: tuple[str, ...]) -> str | None:
    """The one key of ``value`` that says which member of a union is meant; None unless it is exactly one."""
    given = [tag for tag in tags if (tag in value if isinstance(value, dict) else tag in type(value).model_fields)]
    return given[0] if len(given) == 1 else None


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists of mappings as ``{"a.0.b": value}``."""
    if isinstance(value, dict) and value:
        return {k: v for key, inner in value.items() for k, v in flattened(inner, f"{prefix}{key}.").items()}
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return {k: v for index, inner in enumerate(value) for k, v in flattened(inner, f"{prefix}{index}.").items()}
    return {prefix.removesuffix("."): value}


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two configurations, a line each: dotted key, the value there and the one given now."""
    saved, given = flattened(dict(there)), flattened(dict(now))
    names = sorted(name for name in saved.keys() | given.keys() if saved.get(name) != given.get(name))
    return [f"{name}: there {saved.get(name, 'absent')!r}, now {given.get(name, 'absent')!r}" for name in names]
