"""What a version was derived from, where that is no ancestor of it: a version of another model, mostly."""

from mcr.values import dataclass


@dataclass(frozen=True, slots=True)
class BaseVersion:
    """The version that another one was derived from, such as the foundation of a fine-tune.

    Attributes:
        model: `namespace/name`.
        number: from 1.
        id: 64 hexadecimal characters; it vouches for the bytes of the base, also when it was deleted.
    """

    model: str
    number: int
    id: str

    @property
    def reference(self) -> str:
        """The full reference, `llm/base@v3`."""
        return f"{self.model}@v{self.number}"
