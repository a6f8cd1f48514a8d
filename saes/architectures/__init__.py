"""The architectures: one file each, and this list of them."""

from typing import Any, Literal, get_args, get_origin, get_type_hints

from saes.architectures.base import Architecture, own_fields
from saes.architectures.gated import Gated, SignAwareGated

ARCHITECTURES: dict[str, type[Architecture]] = {kind.name: kind for kind in (Gated, SignAwareGated)}


def architecture_of(values: dict[str, Any]) -> Architecture:
    """The architecture that `Architecture.as_dict` described. Raises ValueError saying what was given and what is allowed."""
    given = dict(values)
    name = given.pop("architecture", None)
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ValueError(f"architecture is {name!r}; allowed are {', '.join(ARCHITECTURES)}")
    kind = ARCHITECTURES[name]
    settings = {"d_in", "d_sae", *(field.name for field in own_fields(kind))}
    unknown = [key for key in given.keys() - settings if getattr(kind, key, None) != given[key]]
    missing = [key for key in ("d_in", "d_sae") if key not in given]
    if unknown or missing:
        what = f"lacks {', '.join(missing)}" if missing else f"has no {', '.join(sorted(unknown))}"
        raise ValueError(f"the configuration of a {name} SAE {what}; it has {', '.join(sorted(settings))}")
    for key in ("d_in", "d_sae"):
        if type(given[key]) is not int:
            raise ValueError(f"{key} is {given[key]!r}; it must be a whole number")
    for key, hint in get_type_hints(kind).items():
        if key in given and get_origin(hint) is Literal and given[key] not in get_args(hint):
            raise ValueError(f"{key} is {given[key]!r}; allowed are {', '.join(map(str, get_args(hint)))}")
    return kind(**{key: value for key, value in given.items() if key in settings})
