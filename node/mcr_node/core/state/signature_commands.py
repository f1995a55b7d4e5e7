"""The command about signatures of versions."""

from mcr.values import dataclass
from mcr_node.core.state.envelope import Envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class SignVersion(Envelope):
    """Keep a signature beside a version.

    Attributes:
        version_id: 32 bytes; refused unless the version has it.
        public_key: Ed25519, 32 bytes.
        signature: 64 bytes; the proposer has verified it (`services.versions`), and clients verify it again.
    """

    model: str
    number: int
    version_id: bytes
    public_key: bytes
    signature: bytes
