"""Signatures for blocking callers: a part of `mcr.client.Model`."""

from mcr.aio import AsyncModel
from mcr.loop_thread import LoopThread
from mcr.references import DEFAULT_BRANCH
from mcr.signatures import Signature
from mcr.signing import KeySource


class BlockingSignatures:
    """The methods of `mcr.client.Model` about signatures; it brings the model and the loop."""

    _model: AsyncModel
    _loop: LoopThread

    def sign(self, ref: str, private_key: KeySource) -> Signature:
        """See `AsyncModel.sign`."""
        return self._loop.run(self._model.sign(ref, private_key), "sign")

    def verify(self, ref: str, public_key: KeySource) -> Signature:
        """See `AsyncModel.verify`."""
        return self._loop.run(self._model.verify(ref, public_key), "verify")

    def signatures(self, ref: str = DEFAULT_BRANCH) -> list[Signature]:
        """See `AsyncModel.signatures`."""
        return self._loop.run(self._model.signatures(ref), "show")
