"""YAML text as plain values, without two of its traps."""

import math
import re
from collections.abc import Hashable

import yaml

# A number may be as long as the file; a message is not.
VALUE_CHARACTERS_SHOWN_MAX = 40


def parse_yaml(text: str) -> object:
    """Return what a YAML document holds.

    Raises:
        ValueError: it does not parse; the message names the line.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader with fewer surprises)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise ValueError(f"line {line}: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"line {line}: {error.reason}") from error


def key_lines(text: str) -> dict[str, int]:
    """Return the line of each key of a YAML document that is a mapping, counted from 1.

    Args:
        text: what `parse_yaml` took.
    """
    node = yaml.compose(text, _Loader)
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {str(key.value): key.start_mark.line + 1 for key, _ in node.value}


class _Loader(yaml.SafeLoader):
    """YAML without two traps: `1e-4` is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                name = (key.tag, key.value)
                if name in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value!r} is given twice", key.start_mark
                    )
                seen.add(name)
        return super().construct_mapping(node, deep)


# YAML 1.1, which PyYAML speaks, wants `1.0e-4`; YAML 1.2 and every person who writes a learning rate do not.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+", re.ASCII),
    list("-+.0123456789"),
)


def _yaml_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    value = loader.construct_yaml_float(node)
    if math.isinf(value) and "inf" not in str(node.value).lower():
        shown = str(node.value)[:VALUE_CHARACTERS_SHOWN_MAX]
        raise yaml.constructor.ConstructorError(
            None, None, f"{shown!r} is too large for a double", node.start_mark
        )
    return float(value)


_Loader.add_constructor("tag:yaml.org,2002:float", _yaml_float)
