"""The part of mcr.v1.VersionsService about signatures: verified here, kept by core/state."""

from functools import partial

from mcr import signing
from mcr.model import VersionId
from mcr.references import check_model
from mcr.v1 import versions_pb2 as pb
from mcr_node.core.state import signatures
from mcr_node.core.state.outcomes import CountResult
from mcr_node.core.state.records import SignatureRow
from mcr_node.core.state.signature_commands import SignVersion
from mcr_node.services.log_calls import LogCalls


def signature_message(public_key: bytes, row: SignatureRow) -> pb.Signature:
    """Return a signature as a message."""
    return pb.Signature(
        public_key=public_key,
        signature=row.signature,
        principal=row.principal,
        at_ms=row.at_ms,
        log_index=row.index,
    )


class SignatureCalls(LogCalls):
    """What `VersionsService` does about signatures."""

    async def sign_version(self, request: pb.SignVersionRequest) -> pb.SignVersionResponse:
        """Verify a signature, and keep it."""
        model, number = check_model(request.model), request.number
        command = SignVersion(
            **self._envelope(request.header),
            model=model,
            number=number,
            version_id=request.version_id,
            public_key=request.public_key,
            signature=request.signature,
        )
        version, identity = f"{model}@v{number}", VersionId(request.version_id)
        # On a thread: the library is loaded when it is first needed. Not again when it is applied, see there.
        await self._log.run(partial(signing.verify, version, identity, request.public_key, request.signature))
        accepted = await self._propose(command)
        assert isinstance(accepted.result, CountResult)
        kept = self._look(lambda view: dict(signatures.signatures_of(view, model, number)))
        return pb.SignVersionResponse(
            signature=signature_message(request.public_key, kept[request.public_key]),
            log_index=accepted.index,
            already_signed=not accepted.result.count,
        )
