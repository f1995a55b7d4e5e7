"""Answering who looks for versions: one bounded search, and as much of what it found as fits a message."""

from collections.abc import Callable

from mcr import _wire
from mcr._wire_finding import conditions_from_wire
from mcr.references import Reference, Selector, check_model, parse_reference
from mcr.v1 import versions_pb2 as pb
from mcr_node.core.state import lookup, queries
from mcr_node.core.state.finding import Search
from mcr_node.core.state.view import View
from mcr_node.services.messages import PAGE_BYTES_MAX, limit_of


def reader(request: pb.FindVersionsRequest) -> Callable[[View], pb.FindVersionsResponse]:
    """Check a request and return what reads the answer.

    Raises:
        InvalidArgumentError, InvalidNameError, InvalidReferenceError: it means nothing.
    """
    limit = limit_of(request.limit)
    conditions = conditions_from_wire(request.conditions)
    if request.ancestry:
        reference = parse_reference(request.reference)
    else:
        reference = Reference(check_model(request.reference), Selector.ANY)
    model = reference.model

    def read(view: View) -> pb.FindVersionsResponse:
        newest = lookup.model_row(view, model).version_count
        start = list(request.next)
        if not start:
            start = [queries.resolve(view, reference) if request.ancestry else newest]
        search = Search(view, model, conditions, start=start, ancestry=request.ancestry)
        response = pb.FindVersionsResponse()
        length_bytes = 0
        for number in search:
            message = _wire.version_to_wire(queries.get_version(view, model, number))
            length_bytes += message.ByteSize()
            if response.versions and length_bytes > PAGE_BYTES_MAX:
                search.put_back(number)
                break
            response.versions.append(message)
            if len(response.versions) == limit:
                break
        response.next.extend(search.rest)
        return response

    return read
