"""Reading a study's YAML: all errors at once, each with file, line, dotted path, what is allowed and a near match."""

import difflib
import re
import types
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from core.schema import ChosenBy, StudyPlace
from pipeline.studies import DEFAULT_KIND, KINDS
from pipeline.study import Study
from pipeline.yaml_file import ConfigError, Loader, Location, parse_yaml, unmeant


class _Source(NamedTuple):
    file: Path
    lines: dict[Location, int]
    overrides: dict[Location, str]

    def of(self, location: Location) -> str:
        """Where a value (or the nearest thing around it) was written; an override stands for all that is inside it, and the
        only one inside a place for the place."""
        inside = [text for place, text in self.overrides.items() if location and place[: len(location)] == location]
        if len(inside) == 1:
            return f"--set {inside[0]}"
        above = [location[:end] for end in range(len(location), -1, -1)]
        for places, word in ((self.overrides, "--set {}"), (self.lines, f"{self.file}:{{}}")):
            found = next((one for one in above if one in places), None)
            if found is not None:
                return word.format(places[found])
        return str(self.file)


class Loaded(NamedTuple):
    """A study, and what is to be said of its paths."""

    study: Study
    said: list[str]


def load_study(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read, override (``a.b=c``) and validate a study. Raises ConfigError listing every problem."""
    data, source = _read(path, overrides)
    kind = data.get("kind", DEFAULT_KIND)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(
            f"{source.of(('kind',))}: kind: is {kind!r}{_near(str(kind), KINDS)}; allowed are {', '.join(KINDS)}"
        )
    schema, place = KINDS[kind].schema, StudyPlace(path.parent)
    try:
        study = schema.model_validate(data, context=place)
    except ValidationError as error:
        problems = [_describe(problem, data, source, schema) for problem in error.errors()]
        raise ConfigError(_listed(problems)) from None
    problems = [
        f"{source.of(location)}: {'.'.join(map(str, location))}: {problem}"
        for location, problem in unmeant(data, study.to_dict())
    ]
    if problems:
        raise ConfigError(_listed(problems))
    return Loaded(study, list(dict.fromkeys(place.said)))


def _listed(problems: Sequence[str]) -> str:
    return f"{len(problems)} problem(s) in the study:\n" + "\n".join(f"  {problem}" for problem in problems)


def _read(path: Path, overrides: Sequence[str]) -> tuple[Any, _Source]:
    node, data = parse_yaml(path)
    lines: dict[Location, int] = {}
    duplicates = list(_note_lines(node, (), lines))
    if duplicates:
        raise ConfigError("\n".join(f"{path}:{line}: key {key!r} is given twice" for key, line in duplicates))
    return data, _Source(path, lines, {_apply(data, text): text for text in overrides})


def _note_lines(node: Any, location: Location, lines: dict[Location, int]) -> Iterable[tuple[str, int]]:
    """Fill ``lines``; yields keys that a mapping holds twice."""
    lines.setdefault(location, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                yield key.value, line
            seen.add(key.value)
            lines[(*location, key.value)] = line
            yield from _note_lines(value, (*location, key.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _note_lines(value, (*location, index), lines)


def _apply(data: Any, override: str) -> Location:
    """Put one ``a.b=c`` into ``data``; returns its location."""
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {override}: write it as key.key=value, for example --set train.n_steps=100")
    location: Location = tuple(int(part) if part.isdigit() else part for part in dotted.split("."))
    target = data
    try:
        for part in location[:-1]:
            target = target.setdefault(part, {}) if isinstance(target, dict) else target[part]
        target[location[-1]] = yaml.load(value, Loader=Loader)
    except (TypeError, IndexError, AttributeError):
        raise ConfigError(f"--set {override}: {dotted} is no place in this study") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"--set {override}: {value!r} is not valid YAML") from None
    return location


def _describe(problem: Any, data: Any, source: _Source, schema: type[Study]) -> str:
    location = _without_tags(problem["loc"], data)
    where = source.of(location or _named_place(problem["msg"], data))
    return f"{where}: {'.'.join(map(str, location)) or 'study'}: {_explain(problem, location, data, schema)}"


def _named_place(message: str, data: Any) -> Location:
    """The place that the error of a whole study names at its beginning: ``compare.0.a: no SAE ...``."""
    found = re.match(r"(?:Value error, )?(\w+(?:\.\w+)*)[: ]", message)
    place: list[str | int] = []
    here = data
    for part in found[1].split(".") if found else []:
        key = int(part) if part.isdigit() else part
        if _step(here, key) is None:
            break
        place.append(key)
        here = _step(here, key)
    return tuple(place)


def _explain(problem: Any, location: Location, data: Any, schema: type[Study]) -> str:
    kind, given = problem["type"], problem["input"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        allowed = _keys_at(schema, problem["loc"][:-1], data)
        return f"unknown key{_near(str(location[-1]), allowed)}; allowed are {', '.join(sorted(allowed))}"
    if kind == "missing":
        return "is missing and has no default"
    if kind == "literal_error" or kind == "union_tag_invalid":
        expected = problem["ctx"].get("expected") or problem["ctx"]["expected_tags"]
        allowed = re.findall(r"'([^']+)'", expected)
        value = problem["ctx"].get("tag", given)
        return f"is {value!r}{_near(str(value), allowed)}; allowed are {', '.join(allowed)}"
    if kind in ("model_source", "corpus_source"):
        allowed = problem["ctx"]["allowed"].split(", ")
        keys = list(given) if isinstance(given, dict) else []
        near = "".join({_near(str(key), allowed) for key in keys if key not in allowed})
        as_id = f"; for a Hub id write {location[-1]}: {{hub: {given}}}" if isinstance(given, str) else ""
        return f"{problem['msg']}{near}; given are {', '.join(map(str, keys)) or repr(given)}{as_id}"
    shown = "" if isinstance(given, dict | list) else f" (given: {given!r})"
    return problem["msg"].removeprefix("Value error, ") + shown


def _near(given: str, allowed: Iterable[str]) -> str:
    match = difflib.get_close_matches(given, list(allowed), n=1)
    return f", did you mean {match[0]}?" if match else ""


def _without_tags(location: Location, data: Any) -> Location:
    """A pydantic location names the union member chosen; the file does not."""
    kept: list[str | int] = []
    here = data
    for position, part in enumerate(location):
        inside = _step(here, part)
        is_last = position == len(location) - 1
        if isinstance(here, dict) and not is_last and not isinstance(inside, dict | list):
            continue
        kept.append(part)
        here = inside
    return tuple(kept)


def _step(here: Any, part: str | int) -> Any:
    if isinstance(here, dict):
        return here.get(part)
    return here[part] if isinstance(here, list) and isinstance(part, int) and part < len(here) else None


def _keys_at(kind: Any, location: Location, value: Any) -> list[str]:
    """Keys that the schema allows at a pydantic location, where ``value`` is what the study says at ``kind``."""
    origin = get_origin(kind)
    if origin is Annotated:
        bare, *metadata = get_args(kind)
        chosen = next((one for one in metadata if isinstance(one, ChosenBy)), None)
        return _keys_at(bare if chosen is None else chosen.choose(value), location, value)
    if origin is list:
        return _keys_at(get_args(kind)[0], location[1:], _step(value, location[0]))
    if origin in (Union, types.UnionType):
        given = [member for member in get_args(kind) if member is not types.NoneType]
        if len(given) == 1:  # pydantic names no member of it
            return _keys_at(given[0], location, value)
        return _keys_at(_member(get_args(kind), location[0]), location[1:], value)
    inside = _annotations(kind)
    if not location:
        return list(inside)
    return _keys_at(inside[str(location[0])], location[1:], _step(value, location[0]))


def _annotations(kind: Any) -> dict[str, Any]:
    if is_dataclass(kind):
        return {field.name: field.type for field in fields(kind)}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: Annotated[field.annotation, 0] for name, field in kind.model_fields.items()}
    return {}


def _member(members: Sequence[Any], tag: str | int) -> Any:
    """The member of a union that a tag names: by its own key, or by the one value of a literal field of its own."""
    for member in members:
        bare = get_args(member)[0] if get_origin(member) is Annotated else member
        annotations = _annotations(bare)
        literals = [get_args(kind)[0] for kind in annotations.values() if get_origin(kind) is Annotated]
        if tag in annotations or any(get_args(kind) == (tag,) for kind in literals):
            return bare
    return members[0]
