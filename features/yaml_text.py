"""Read YAML: of users and strangers, small and without keys listed twice, and of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from features.errors import ConfigError

__all__ = ["own_yaml", "parse_yaml"]

_MAX_TEXT = 1 << 20  # characters
_MAX_NODES = 100_000  # values after every alias is written out; a bomb of ten lines has 10^10
_MAX_DEPTH = 40


def own_yaml(path: Path) -> Any:
    """Return the value of a YAML file of the package, by libyaml where PyYAML has it."""
    import yaml  # not needed by those who read no configuration

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # five to ten times faster
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML document.

    Args:
        text: the document.
        where: file or option, for messages.

    Raises: ConfigError: not YAML; a key that is listed twice; more nodes, levels or digits than a
        configuration has.
    """
    import yaml  # not needed by those who read no configuration

    if len(text) > _MAX_TEXT:
        raise ConfigError(f"{where}: {len(text):,} characters, too many for a configuration.")
    try:
        loader = yaml.SafeLoader(text)
        loader.name = where
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, where, {}, 0)
        return loader.construct_document(node)
    except RecursionError as error:
        raise ConfigError(f"{where}: nested too deeply for a configuration.") from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{where}: is not YAML: {' '.join(str(error).split())}") from error


def _check(node: Any, where: str, sizes: dict[int, int], depth: int) -> int:
    """Return how many values a node has with every alias written out.

    Args:
        sizes: of the nodes that have been counted; 0 for those that are being counted.

    Raises: ConfigError: too many values or levels, a node inside itself, or a key listed twice.
    """
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise ConfigError(f"{where}: line {node.start_mark.line + 1}: a value holds itself.")
        return sizes[id(node)]
    if depth > _MAX_DEPTH:
        raise ConfigError(f"{where}: nested too deeply for a configuration.")
    sizes[id(node)] = 0
    size, keys = 1, set()
    for item in node.value if isinstance(node.value, list) else ():
        if isinstance(item, tuple):
            key = item[0]
            if isinstance(key.value, str) and key.value != "<<":
                if key.value in keys:
                    line = key.start_mark.line + 1
                    raise ConfigError(f"{where}: line {line}: {key.value!r} is listed twice.")
                keys.add(key.value)
        for part in item if isinstance(item, tuple) else (item,):
            size += _check(part, where, sizes, depth + 1)
            if size > _MAX_NODES:
                raise ConfigError(f"{where}: more values than a configuration has.")
    sizes[id(node)] = size
    return size
