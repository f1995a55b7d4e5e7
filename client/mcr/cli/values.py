"""`key=value` arguments and parameter files: text in, typed values out. Reads no file itself."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from mcr.canonical import DEPTH_MAX, INTEGER_MAX, INTEGER_MIN
from mcr.errors import InvalidArgumentError, InvalidMetricError, InvalidParameterError
from mcr.model import METRICS_MAX, PARAMETERS_BYTES_MAX, ParameterValue

# The grammar of JSON numbers; Python's own would also take `1_000`, `+5` and `01`.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
# Metrics come from other programs' logs, whose forms are looser: `+1.5`, `.5`, `2.`
_METRIC = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
_NON_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.ASCII | re.IGNORECASE)
_WORDS: Mapping[str, ParameterValue] = {"true": True, "false": False, "null": None}
# 2^64 has 20 digits. Longer texts are refused unread: Python's int() takes quadratic time, or refuses itself.
_INTEGER_CHARACTERS_MAX = 21
_TOO_LONG = "the integer needs more than 64 bits; write it as text or as a float"
_TOO_LARGE = "it is too large for a double"
_VALUE_CHARACTERS_SHOWN_MAX = 40

Tree = dict[str, ParameterValue]


def parameters_from(pairs: Iterable[str], document: Mapping[str, ParameterValue] | None = None) -> Tree:
    """Return the parameter tree of `-p` arguments laid over that of a file.

    Raises:
        InvalidParameterError: a value that cannot be stored, or two that contradict each other.
        InvalidArgumentError: an argument without `=`.
    """
    given: Tree = {}
    for pair in pairs:
        key, text = _split(pair, "-p")
        _insert(given, key, parse_scalar(key, text))
    return _overlay(document or {}, given, "")


def parse_scalar(key: str, text: str) -> ParameterValue:
    """Return the JSON scalar that `text` is, else `text` itself.

    Quotes make text of a number: `-p tag='"5"'`.

    Raises:
        InvalidParameterError: a number that cannot be stored.
    """
    if text in _WORDS:
        return _WORDS[text]
    number = _NUMBER.fullmatch(text)
    if number is not None:
        return _integer(key, text) if number[1] is None and number[2] is None else _float(key, text)
    if len(text) >= 2 and text[0] == text[-1] == '"':
        try:
            return cast("str", json.loads(text))
        except ValueError:
            return text
    return text


def _integer(key: str, text: str) -> int:
    if len(text) > _INTEGER_CHARACTERS_MAX or not INTEGER_MIN <= int(text) <= INTEGER_MAX:
        raise InvalidParameterError(key, _TOO_LONG)
    return int(text)


def _float(key: str, text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise InvalidParameterError(key, _TOO_LARGE)
    return value


def _split(pair: str, argument: str) -> tuple[str, str]:
    key, equals, text = pair.partition("=")
    if not equals or not key.strip():
        raise InvalidArgumentError(argument, f"{_shown(pair)!r} is not of the form key=value")
    return key, text


def _insert(tree: Tree, key: str, value: ParameterValue) -> None:
    *folders, leaf = key.split(".")
    if not all((*folders, leaf)):
        raise InvalidParameterError(key, "an empty name between dots")
    if len(folders) >= DEPTH_MAX:
        raise InvalidParameterError(_shown(key), f"nested deeper than {DEPTH_MAX}")
    at = tree
    for folder in folders:
        below = at.setdefault(folder, {})
        if not isinstance(below, dict):
            raise InvalidParameterError(key, f"{folder!r} has a value already, so it cannot have keys")
        at = below
    if leaf in at and not _same(at[leaf], value):
        raise InvalidParameterError(key, "it is given twice, with different values")
    at[leaf] = value


def _same(a: ParameterValue, b: ParameterValue) -> bool:
    # 1, 1.0 and true are equal to Python, but three values to whoever reads the record.
    return type(a) is type(b) and a == b


def _overlay(below: Mapping[str, ParameterValue], above: Tree, prefix: str) -> Tree:
    merged = dict(below)
    for key, value in above.items():
        name = f"{prefix}{key}"
        old = below.get(key)
        if key in below and isinstance(old, Mapping) != isinstance(value, Mapping):
            # To replace a whole subtree by a number is a slip more often than a wish.
            raise InvalidParameterError(name, "the file and -p disagree whether it is a value or has keys")
        if isinstance(old, Mapping) and isinstance(value, dict):
            merged[key] = _overlay(old, value, f"{name}.")
        else:
            merged[key] = value
    return merged


def parse_metrics(pairs: Iterable[str], *, allow_non_finite: bool, argument: str) -> dict[str, float]:
    """Return the metrics of `key=value` arguments.

    Raises:
        InvalidMetricError: not finite without `allow_non_finite`, too large for a double, or given twice.
        InvalidArgumentError: not of the form key=number, or too many.
    """
    metrics: dict[str, float] = {}
    for pair in pairs:
        key, text = _split(pair, argument)
        value = _metric(key, text.strip(), allow_non_finite=allow_non_finite, argument=argument)
        if key in metrics and metrics[key] != value:
            raise InvalidMetricError(key, _shown(text), "it is given twice, with different values")
        metrics[key] = value
    if len(metrics) > METRICS_MAX:
        raise InvalidArgumentError(argument, f"{len(metrics)} metrics; at most {METRICS_MAX} at once")
    return metrics


def _metric(key: str, text: str, *, allow_non_finite: bool, argument: str) -> float:
    if _NON_FINITE.fullmatch(text) is not None:
        if not allow_non_finite:
            raise InvalidMetricError(key, text, "it is not finite")
        return float(text)
    if _METRIC.fullmatch(text) is None:
        raise InvalidArgumentError(argument, f"{key}={_shown(text)!r} is not a number")
    value = float(text)
    if math.isinf(value):
        raise InvalidMetricError(key, _shown(text), _TOO_LARGE)
    return value


def _shown(text: str) -> str:
    return text if len(text) <= _VALUE_CHARACTERS_SHOWN_MAX else text[:_VALUE_CHARACTERS_SHOWN_MAX] + "…"


def parse_parameter_file(name: str, data: bytes) -> Tree:
    """Return the parameters of a JSON or YAML file.

    Args:
        name: the file's name; its ending says how to read it.
        data: the file's bytes, at most PARAMETERS_BYTES_MAX.

    Raises:
        InvalidParameterError: the file does not parse (the line is named), is no mapping, gives a key twice,
            or holds what cannot be stored.
        InvalidArgumentError: the ending is not .json, .yaml or .yml.
    """
    parse = _parser(name)
    blame = f"--params {name}"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidParameterError(blame, f"line {line}: not UTF-8") from error
    try:
        document = parse(text)
    except json.JSONDecodeError as error:
        raise InvalidParameterError(
            blame, f"line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except (ValueError, RecursionError) as error:
        # E.g. an impossible date, or brackets nested a thousand deep.
        raise InvalidParameterError(blame, str(error)) from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidParameterError(blame, f"line 1: it holds a {_kind(document)}, not keys with values")
    _Checker().check(document, "", 0)
    return cast("Tree", document)


def _parser(name: str) -> Callable[[str], object]:
    ending = name.lower().rpartition(".")[2]
    if ending == "json":
        return lambda text: json.loads(
            text, object_pairs_hook=_unique, parse_float=_json_float, parse_int=_json_int
        )
    if ending in ("yaml", "yml"):
        # Late: few commands read YAML, and the parser would be a twentieth of the start of every one.
        from mcr.cli.yaml_text import parse_yaml

        return parse_yaml
    raise InvalidArgumentError("--params", f"{name!r} does not end in .json, .yaml or .yml")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidParameterError(key, "the file gives it twice")
        found[key] = value
    return found


def _json_float(text: str) -> float:
    return _float(_shown(text), text)


def _json_int(text: str) -> int:
    return _integer(_shown(text), text)


class _Checker:
    """Walk a document and refuse what a record cannot hold."""

    def __init__(self) -> None:
        # Each node takes a byte at least. Counting bounds the walk where aliases make a small file huge.
        self._nodes_left = PARAMETERS_BYTES_MAX

    def check(self, value: object, name: str, depth: int) -> None:
        self._nodes_left -= 1
        if self._nodes_left < 0:
            raise InvalidParameterError(name, f"all parameters together exceed {PARAMETERS_BYTES_MAX} bytes")
        if depth > DEPTH_MAX:
            raise InvalidParameterError(_shown(name), f"nested deeper than {DEPTH_MAX}")
        match value:
            case None | bool() | str() | float():
                return
            case int():
                if not INTEGER_MIN <= value <= INTEGER_MAX:
                    raise InvalidParameterError(name, _TOO_LONG)
            case dict():
                for key, item in value.items():
                    if not isinstance(key, str):
                        raise InvalidParameterError(
                            f"{name}{key}", f"the key is a {_kind(key)}; put it in quotes"
                        )
                    self.check(item, f"{name}.{key}" if name else key, depth + 1)
            case list():
                for position, item in enumerate(value):
                    self.check(item, f"{name}[{position}]", depth + 1)
            case _:
                raise InvalidParameterError(name, f"a {_kind(value)} cannot be stored; put it in quotes")


def _kind(value: object) -> str:
    names = {dict: "mapping", list: "list", str: "text", bool: "truth value", int: "number", float: "number"}
    return names.get(type(value), type(value).__name__)
