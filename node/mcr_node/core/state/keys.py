"""The layout of the ordered view: every key family, and nothing else that knows how a key is built.

    family  key after the family byte            value             one for each
    ------  ----------------------------------   ---------------   ----------------------------------
    Da      time v|m model NUL number            TrashAgeRow       version or model in the trash
    Dm      model NUL number                     TrashRow          deletion of a model, up to a version
    Dv      model NUL number                     TrashRow          deleted version
    G       (nothing)                            CollectingRow     state
    L       lease                                LeaseRow          upload that holds a lease
    M       (nothing)                            StateRow          state
    N       (nothing)                            FenceRow          state
    P       model NUL number                     PinRow            pinned version
    U       model, or namespace                  QuotaRow          quota
    W       (nothing)                            EventsRow         state
    X       model NUL merge                      WaitingRow        merge that waits for decisions
    X       model NUL 0                          MergesRow         model with merges that waited
    Y       model NUL merge name                 ConflictRow       conflict of a waiting merge
    Z       model NUL number                     DocumentRow       version that is a merge
    a       index                                request id        remembered request, by age
    a       index NUL                            list of those     requests of a command that holds several
    c       model NUL number                     MetricCountRow    version with metrics
    d       model NUL number model NUL number    DerivedRow        version derived from another one
    e       model NUL number index               ReportRow         report of metrics, or several of a command
    g       model NUL number public-key          SignatureRow      signature of a version
    h       model NUL kind name NUL generation   MoveRow           move of a ref, never deleted
    i       model NUL version-id                 IdRow             version
    l       model NUL number metric-name         MetricRow         metric of a version (its latest value)
    m       model                                ModelRow          model
    p       model NUL number kind name           PointerRow        ref that points at a version
    q       request-id                           RequestRow        remembered request
    r       model NUL kind name                  RefRow            ref that exists
    s       model NUL kind name NUL number       StandingRow       version that a ref was at
    v       model NUL number                     bytes of a record version
    w       index                                EventRow          move of a ref, the newest of all models

`B` and `C`, what is loaded where, are laid out in `receipt_keys`; `K`, policies, in `policy_keys`;
`k` and `n`, which versions stay, in `retention`.
Sessions have families S and T; their layout stands in `session_rows`.

A value is a row of `records`, but for the two that are plain bytes and the list of request ids.

Numbers, generations and log indexes are 8 bytes, big-endian, so that key order is their order. A name cannot
hold NUL (`mcr.references`), so NUL ends it, and no name is a prefix of another one's keys. `kind` is one
byte: `b`, `c` or `t`. Version ids and public keys are their 32 bytes. Keys that start with NUL belong to the
store below the view.

What is looked for by prefix stands last in its key: all refs of a kind, all refs at a version, all metrics of
a version, all versions whose id starts so are each one bounded scan. "The newest" is the first row of a
reverse scan, so nothing counts rows by reading them.
"""

import struct

from mcr.model import RefKind, VersionId
from mcr.values import dataclass
from mcr_node.core.state.view import prefix_end

STATE = b"M"
EVENTS = b"W"
NUMBER_MAX = 2**63 - 1
_NUMBER = struct.Struct(">Q")
_NUMBER_BYTES = _NUMBER.size
_NUL = b"\x00"
_KIND_BYTE = {RefKind.BRANCH: b"b", RefKind.CHANNEL: b"c", RefKind.TAG: b"t"}
_KIND_OF = {byte: kind for kind, byte in _KIND_BYTE.items()}

Span = tuple[bytes, bytes]
"""A range of keys: start included, end not."""


@dataclass(frozen=True, slots=True)
class RefName:
    """What names one ref: tags, branches and channels of a model may share a name."""

    model: str
    kind: RefKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


def _span(prefix: bytes) -> Span:
    return prefix, prefix_end(prefix)


def _family(family: bytes, model: str) -> bytes:
    return family + model.encode() + _NUL


def _ref(family: bytes, of: RefName) -> bytes:
    return _family(family, of.model) + _KIND_BYTE[of.kind] + of.name.encode()


def number_in(key: bytes) -> int:
    """Return the number, generation or log index that a key ends with."""
    (number,) = _NUMBER.unpack(key[-_NUMBER_BYTES:])
    return int(number)


# Models and versions


def model(name: str) -> bytes:
    """Key of a ModelRow."""
    return b"m" + name.encode()


def models_after(name: str) -> Span:
    """All models whose name comes after `name`; after "" come all."""
    return b"m" + name.encode() + (_NUL if name else b""), prefix_end(b"m")


def model_in(key: bytes) -> str:
    """Return the name in the key of a ModelRow."""
    return key[1:].decode()


def version(model_name: str, number: int) -> bytes:
    """Key of a version's record."""
    return _family(b"v", model_name) + _NUMBER.pack(number)


def versions_before(model_name: str, number: int) -> Span:
    """All versions of a model with a smaller number."""
    return _family(b"v", model_name), version(model_name, number)


def version_id(model_name: str, identity: VersionId) -> bytes:
    """Key of an IdRow."""
    return _family(b"i", model_name) + identity


def version_ids(model_name: str, hex_prefix: str) -> Span:
    """All ids of a model that start with up to 64 lower-case hexadecimal characters."""
    # An odd last character covers half a byte: from its 0 to its f.
    odd = len(hex_prefix) % 2 == 1
    start = bytes.fromhex(hex_prefix + "0" * odd)
    last = bytes.fromhex(hex_prefix + "f" * odd)
    family = _family(b"i", model_name)
    return family + start, prefix_end(family + last)


# What was derived from what


def derived(base_model: str, base_number: int, model_name: str, number: int) -> bytes:
    """Key of a DerivedRow."""
    return (
        _family(b"d", base_model)
        + _NUMBER.pack(base_number)
        + _family(b"", model_name)
        + _NUMBER.pack(number)
    )


def derived_after(base_model: str, base_number: int, model_name: str, number: int) -> Span:
    """All versions derived from one that come after a version, by model and number; after "" come all."""
    family = _family(b"d", base_model) + _NUMBER.pack(base_number)
    start = derived(base_model, base_number, model_name, number + 1) if model_name else family
    return start, prefix_end(family)


def derived_in(base_model: str, key: bytes) -> tuple[str, int]:
    """Return model and number in the key of a DerivedRow."""
    at = len(_family(b"d", base_model)) + _NUMBER_BYTES
    return key[at : -_NUMBER_BYTES - 1].decode(), number_in(key)


# Refs


def ref(of: RefName) -> bytes:
    """Key of a RefRow."""
    return _ref(b"r", of)


def ref_in(model_name: str, key: bytes) -> str:
    """Return the name in the key of a RefRow."""
    return key[len(_family(b"r", model_name)) + 1 :].decode()


def refs_after(model_name: str, kind: RefKind, name: str) -> Span:
    """All refs of a kind whose name comes after `name`; after "" come all."""
    family = _family(b"r", model_name) + _KIND_BYTE[kind]
    return family + name.encode() + (_NUL if name else b""), prefix_end(family)


def move(of: RefName, generation: int) -> bytes:
    """Key of a MoveRow."""
    return _ref(b"h", of) + _NUL + _NUMBER.pack(generation)


def moves_before(of: RefName, generation: int) -> Span:
    """All moves of a ref with a smaller generation."""
    return _ref(b"h", of) + _NUL, move(of, generation)


def standing(of: RefName, number: int) -> bytes:
    """Key of a StandingRow."""
    return _ref(b"s", of) + _NUL + _NUMBER.pack(number)


def pointer(of: RefName, number: int) -> bytes:
    """Key of a PointerRow."""
    return _family(b"p", of.model) + _NUMBER.pack(number) + _KIND_BYTE[of.kind] + of.name.encode()


def pointers(model_name: str, number: int) -> Span:
    """All refs that point at a version."""
    return _span(_family(b"p", model_name) + _NUMBER.pack(number))


def pointer_in(model_name: str, key: bytes) -> RefName:
    """Return the ref in the key of a PointerRow."""
    at = len(_family(b"p", model_name)) + _NUMBER_BYTES
    return RefName(model_name, _KIND_OF[key[at : at + 1]], key[at + 1 :].decode())


# Metrics


def metric(model_name: str, number: int, name: str) -> bytes:
    """Key of a MetricRow."""
    return _family(b"l", model_name) + _NUMBER.pack(number) + name.encode()


def metrics(model_name: str, number: int) -> Span:
    """All metrics of a version."""
    return _span(_family(b"l", model_name) + _NUMBER.pack(number))


def metric_in(model_name: str, key: bytes) -> str:
    """Return the name in the key of a MetricRow."""
    return key[len(_family(b"l", model_name)) + _NUMBER_BYTES :].decode()


def metric_count(model_name: str, number: int) -> bytes:
    """Key of a MetricCountRow."""
    return _family(b"c", model_name) + _NUMBER.pack(number)


def report(model_name: str, number: int, index: int) -> bytes:
    """Key of a ReportRow."""
    return _family(b"e", model_name) + _NUMBER.pack(number) + _NUMBER.pack(index)


def reports(model_name: str, number: int) -> Span:
    """All reports of metrics for a version."""
    return _span(_family(b"e", model_name) + _NUMBER.pack(number))


# Signatures


def signature(model_name: str, number: int, public_key: bytes) -> bytes:
    """Key of a SignatureRow."""
    return _family(b"g", model_name) + _NUMBER.pack(number) + public_key


def signatures(model_name: str, number: int) -> Span:
    """All signatures of a version."""
    return _span(_family(b"g", model_name) + _NUMBER.pack(number))


def signature_in(model_name: str, key: bytes) -> bytes:
    """Return the public key in the key of a SignatureRow."""
    return key[len(_family(b"g", model_name)) + _NUMBER_BYTES :]


# Merges


def merges(model_name: str) -> bytes:
    """Key of a MergesRow."""
    return waiting(model_name, 0)


def waiting(model_name: str, merge: int) -> bytes:
    """Key of a WaitingRow."""
    return _family(b"X", model_name) + _NUMBER.pack(merge)


def waiting_after(model_name: str, merge: int) -> Span:
    """All merges of a model that wait and have a greater number."""
    return waiting(model_name, merge + 1), prefix_end(_family(b"X", model_name))


def conflict(model_name: str, merge: int, name: str) -> bytes:
    """Key of a ConflictRow."""
    return _family(b"Y", model_name) + _NUMBER.pack(merge) + name.encode()


def conflicts_after(model_name: str, merge: int, name: str) -> Span:
    """All conflicts of a waiting merge whose name comes after `name`; after "" come all."""
    family = _family(b"Y", model_name) + _NUMBER.pack(merge)
    return family + name.encode() + (_NUL if name else b""), prefix_end(family)


def conflict_in(model_name: str, key: bytes) -> str:
    """Return the name in the key of a ConflictRow."""
    return key[len(_family(b"Y", model_name)) + _NUMBER_BYTES :].decode()


def merge_document(model_name: str, number: int) -> bytes:
    """Key of a DocumentRow."""
    return _family(b"Z", model_name) + _NUMBER.pack(number)


# Requests


def request(request_id: bytes) -> bytes:
    """Key of a RequestRow."""
    return b"q" + request_id


def request_age(index: int) -> bytes:
    """Key of the request that was remembered at a log index."""
    return b"a" + _NUMBER.pack(index)


def request_ages(index: int) -> bytes:
    """Key of the requests that were remembered at a log index, where one command holds several."""
    return request_age(index) + _NUL


def request_age_in(key: bytes) -> tuple[int, bool]:
    """Return the log index in a key of remembered requests, and whether they are several."""
    end = 1 + _NUMBER_BYTES
    (index,) = _NUMBER.unpack(key[1:end])
    return int(index), len(key) > end


def request_ages_from(index: int) -> Span:
    """All remembered requests from a log index on, oldest first."""
    return request_age(index), prefix_end(b"a")


# Events


def event(index: int) -> bytes:
    """Key of an EventRow."""
    return b"w" + _NUMBER.pack(index)


def events_after(index: int) -> Span:
    """All events of a greater log index, oldest first."""
    return event(index + 1), prefix_end(b"w")
