"""Where nodes listen: `host:port`, several with commas between, perhaps with a scheme. Parsing only."""

import re

from mcr.errors import InvalidArgumentError
from mcr.values import dataclass

PORT_MAX = 65_535
ADDRESSES_MAX = 64
_FORM = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", re.ASCII)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PLAIN = "grpc"
_TLS = "grpcs"


@dataclass(frozen=True, slots=True)
class Address:
    """Where something listens; the host of IPv6 is in brackets. Port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_address(argument: str, text: str) -> Address:
    """Parse one `host:port`.

    Raises:
        InvalidArgumentError: it is none; names `argument`.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise InvalidArgumentError(argument, f"{text!r} is not host:port")
    if int(found[2]) > PORT_MAX:
        raise InvalidArgumentError(argument, f"{found[2]} is no port; the greatest is {PORT_MAX}")
    return Address(found[1], int(found[2]))


def looks_like_addresses(text: str) -> bool:
    """Return whether `text` may mean nodes rather than a path; a file of such a name is up to the caller."""
    return "://" in text or all(_FORM.fullmatch(part.strip()) for part in text.split(","))


def parse_addresses(argument: str, text: str) -> tuple[Address, ...]:
    """Parse `host:port,host:port`, each perhaps with `grpc://` in front; each address once.

    Raises:
        InvalidArgumentError: a part is no address, or asks for what this release lacks.
    """
    found: dict[Address, None] = {}
    for part in text.split(","):
        plain = part.strip()
        scheme = _SCHEME.match(plain)
        if scheme is not None:
            if scheme[1].lower() == _TLS:
                raise InvalidArgumentError(
                    argument, "this release speaks no TLS; use grpc:// on a trusted network"
                )
            if scheme[1].lower() != _PLAIN:
                raise InvalidArgumentError(argument, f"{plain!r}: the scheme is grpc://, or left out")
            plain = plain[scheme.end() :].rstrip("/")
        found[parse_address(argument, plain)] = None
    if len(found) > ADDRESSES_MAX:
        raise InvalidArgumentError(
            argument, f"there are {len(found)} addresses, at most {ADDRESSES_MAX} allowed"
        )
    return tuple(found)
