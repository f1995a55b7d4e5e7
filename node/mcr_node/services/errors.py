"""Errors of `mcr.errors` as the detail that goes over the wire. The way back is in the client."""

from mcr.errors import McrError
from mcr.v1 import errors_pb2 as pb

METADATA_KEY = "mcr-error-bin"
# gRPC refuses metadata of 8 KiB and more by default; base64 takes a third, other entries need a little too.
DETAIL_BYTES_MAX = 4096
TEXT_CHARACTERS_MAX = 512


def detail_of(error: McrError) -> bytes:
    """Return the encoded ErrorDetail, small enough for metadata whatever the fields hold."""
    limit = TEXT_CHARACTERS_MAX
    while True:
        detail = _detail(error, limit)
        if len(detail) <= DETAIL_BYTES_MAX or not limit:
            return detail
        limit //= 2


def _detail(error: McrError, characters_max: int) -> bytes:
    detail = pb.ErrorDetail(code=error.code, message=_cut(error.message, characters_max))
    detail.hint = _cut(error.hint, characters_max)
    for name, value in error.fields().items():
        if isinstance(value, int):
            detail.fields.add(name=name, number=value)
        else:
            detail.fields.add(name=name, text=_cut(value, characters_max))
    return detail.SerializeToString()


def _cut(text: str, characters_max: int) -> str:
    # Paths may hold bytes that are no UTF-8, as lone surrogates; protobuf texts may not.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= characters_max else text[:characters_max] + "…"
