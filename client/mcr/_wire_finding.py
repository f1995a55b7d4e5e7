"""Conditions on versions as messages of mcr.v1, and back."""

from mcr import _wire, canonical
from mcr.errors import InvalidArgumentError
from mcr.finding import Comparison, Condition, Conditions
from mcr.v1 import versions_pb2 as pb

_COMPARISONS = {
    Comparison.EQUAL: pb.COMPARISON_EQUAL,
    Comparison.NOT_EQUAL: pb.COMPARISON_NOT_EQUAL,
    Comparison.LESS: pb.COMPARISON_LESS,
    Comparison.LESS_OR_EQUAL: pb.COMPARISON_LESS_OR_EQUAL,
    Comparison.GREATER: pb.COMPARISON_GREATER,
    Comparison.GREATER_OR_EQUAL: pb.COMPARISON_GREATER_OR_EQUAL,
}
_KNOWN = {number: comparison for comparison, number in _COMPARISONS.items()}
# The one key around a parameter's value: canonical bytes of parameters are those of a mapping.
_VALUE = "value"


def conditions_to_wire(conditions: Conditions) -> pb.VersionConditions:
    """Return conditions, checked before, as a message."""
    message = pb.VersionConditions(
        since_ms=conditions.since_ms,
        until_ms=conditions.until_ms,
        creator=conditions.creator,
        tags=conditions.tags,
    )
    for each in conditions.metrics:
        assert isinstance(each.value, float), "checked before"
        message.metrics.add(name=each.name, comparison=_COMPARISONS[each.comparison], value=each.value)
    for each in conditions.parameters:
        message.parameters.add(
            key=each.name,
            comparison=_COMPARISONS[each.comparison],
            value=canonical.encode({_VALUE: each.value}),
        )
    return message


def conditions_from_wire(message: pb.VersionConditions) -> Conditions:
    """Read conditions.

    Raises:
        InvalidArgumentError: one that a node does not take.
    """
    return Conditions(
        metrics=tuple(
            Condition(each.name, _comparison("metric", each.comparison), each.value)
            for each in message.metrics
        ),
        parameters=tuple(map(_parameter, message.parameters)),
        since_ms=message.since_ms if message.HasField("since_ms") else None,
        until_ms=message.until_ms if message.HasField("until_ms") else None,
        creator=message.creator,
        tags=tuple(message.tags),
    ).check()


def _parameter(message: pb.ParameterCondition) -> Condition:
    tree = _wire.mapping_from_wire(message.value)
    if list(tree) != [_VALUE]:
        raise InvalidArgumentError("param", f"{message.key}: it has no value")
    return Condition(message.key, _comparison("param", message.comparison), tree[_VALUE])


def _comparison(argument: str, number: "pb.Comparison.ValueType") -> Comparison:
    found = _KNOWN.get(number)
    if found is None:
        raise InvalidArgumentError(argument, "no such comparison; a newer client may ask newer nodes only")
    return found
