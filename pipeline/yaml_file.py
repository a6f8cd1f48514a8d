"""YAML as people mean it: numbers such as 6e4, no aliases that explode, no booleans for numbers, no infinities."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Location = tuple[str | int, ...]
_LARGEST_FILE = 1 << 20
_MOST_VALUES = 100_000


class ConfigError(ValueError):
    """The study file cannot be used; the message lists every problem."""


class Loader(yaml.SafeLoader):
    """Of YAML 1.2 numbers: 6e4 and 1e-12 are numbers, as everywhere but in YAML 1.1."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$|[-+]?\.\d+[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def parse_yaml(path: Path) -> tuple[yaml.Node, dict[str, Any]]:
    """A mapping: its nodes, which know their lines, and its values. Raises ConfigError, naming file and line."""
    text = _text(path)
    try:
        node = yaml.compose(text, Loader=Loader)
        if node is not None and _n_values(node, {}) > _MOST_VALUES:
            raise ConfigError(f"{path}: it has more than {_MOST_VALUES:,} values once its aliases are written out")
        data = yaml.load(text, Loader=Loader)
    except RecursionError:
        raise ConfigError(f"{path}: it is nested too deeply, or an alias holds itself") from None
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if node is None or not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise ConfigError(
            f"{path}: a study is a mapping of keys to values (name: ..., model: ...), this file holds {found}"
        )
    return node, data


def _text(path: Path) -> str:
    try:
        if not path.is_file() and path.exists():
            raise ConfigError(f"{path} is no regular file; give a study file such as configs/demo.yaml")
        if path.stat().st_size > _LARGEST_FILE:
            raise ConfigError(f"{path} has more than {_LARGEST_FILE >> 20} MiB; it is no study")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); give a study file such as configs/demo.yaml"
        ) from None


def _n_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below a node, those behind aliases every time that they are named."""
    if id(node) not in known:
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inside = [one for pair in node.value for one in pair]
        elif isinstance(node, yaml.SequenceNode):
            inside = node.value
        known[id(node)] = 1 + sum(_n_values(one, known) for one in inside)
    return known[id(node)]


def unmeant(data: Any, read: Any, location: Location = ()) -> Iterator[tuple[Location, str]]:
    """Values that were read as something else than they are, or that no study can mean."""
    if isinstance(read, dict):
        for key, value in read.items():
            yield from unmeant(data.get(key) if isinstance(data, dict) else None, value, (*location, key))
    elif isinstance(read, list):
        for index, value in enumerate(read):
            given = data[index] if isinstance(data, list) and index < len(data) else None
            yield from unmeant(given, value, (*location, index))
    elif isinstance(data, bool) and not isinstance(read, bool):
        yield location, f"is {str(data).lower()}, and a number or text is wanted"
    elif isinstance(read, float) and not math.isfinite(read):
        yield location, f"is {read}; it must be a finite number"
