"""Signatures at the edge of a node: what does not verify is refused, and nothing is changed."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcr._wire import version_of
from mcr.errors import InvalidNameError, ReferenceNotFoundError, SignatureError, VersionDeletedError
from mcr.model import VersionId
from mcr.signatures import signed_bytes
from mcr.v1 import trash_pb2
from mcr.v1 import versions_pb2 as pb
from mcr_node.services.trash import TrashService
from mcr_node.services.versions import VersionsService
from tests.support.memory_log import MemoryLog
from tests.unit.node.runtime.test_runner import commit
from tests.unit.node.services.test_versions import pair, tell

KEY, OTHER_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))


@dataclass
class Asked:
    """A request to sign `a/b@v1`, right in all that is not said otherwise."""

    identity: VersionId

    def request(self, key: Ed25519PrivateKey = KEY, *, request_id: bytes = b"one") -> pb.SignVersionRequest:
        return pb.SignVersionRequest(
            header=pb.WriteHeader(request_id=request_id),
            model="a/b",
            number=1,
            version_id=self.identity,
            public_key=key.public_key().public_bytes_raw(),
            signature=key.sign(signed_bytes(self.identity)),
        )


async def asked(leader: MemoryLog, service: VersionsService) -> Asked:
    await leader.propose(commit(1))
    record = (await service.get_version(pb.GetVersionRequest(reference="a/b@v1"))).version.record
    return Asked(VersionId(bytes.fromhex(version_of(record).id)))


async def kept(service: VersionsService, reference: str = "a/b@v1") -> list[pb.Signature]:
    request = pb.GetVersionRequest(reference=reference, with_signatures=True)
    return list((await service.get_version(request)).signatures)


def test_a_signature_is_kept_and_shown_to_who_asks_for_it_by_any_node() -> None:
    async def story(over: Callable[[MemoryLog], VersionsService]) -> None:
        leader, other = await pair()
        one = await asked(leader, over(leader))

        answer = await over(other).sign_version(one.request())
        again = await over(leader).sign_version(one.request(request_id=b"again"))

        assert await kept(over(leader)) == await kept(over(other)) == [answer.signature]
        assert (answer.signature.principal, answer.signature.log_index) == ("test", answer.log_index)
        assert (answer.already_signed, again.already_signed) == (False, True)
        assert again.signature == answer.signature
        assert not (await over(leader).get_version(pb.GetVersionRequest(reference="a/b@v1"))).signatures

    tell(story)


@pytest.mark.parametrize(
    "what", ["another key", "another id", "one bit", "no context", "short key", "short signature", "nothing"]
)
def test_a_signature_that_does_not_verify_is_refused_and_nothing_is_written(what: str) -> None:
    async def story(over: Callable[[MemoryLog], VersionsService]) -> None:
        leader, _ = await pair()
        one = await asked(leader, over(leader))
        request, before = one.request(), leader.applied
        match what:
            case "another key":
                request.public_key = OTHER_KEY.public_key().public_bytes_raw()
            case "another id":
                request.version_id = bytes(32)
            case "one bit":
                request.signature = bytes([request.signature[0] ^ 1]) + request.signature[1:]
            case "no context":
                request.signature = KEY.sign(one.identity)
            case "short key":
                request.public_key = request.public_key[:31]
            case "short signature":
                request.signature = request.signature[:63]
            case _:
                request.signature = b""

        with pytest.raises(SignatureError) as refused:
            await over(leader).sign_version(request)

        assert refused.value.version == "a/b@v1"
        assert leader.applied == before
        assert await kept(over(leader)) == []

    tell(story)


def test_a_well_made_signature_of_what_is_not_there_is_refused() -> None:
    async def story(over: Callable[[MemoryLog], VersionsService]) -> None:
        leader, _ = await pair()
        one = await asked(leader, over(leader))
        wrong = Asked(VersionId(bytes(32)))
        with pytest.raises(ReferenceNotFoundError, match="another id"):
            await over(leader).sign_version(wrong.request())
        request = one.request()
        request.model = "a/b/c"
        with pytest.raises(InvalidNameError):
            await over(leader).sign_version(request)
        await leader.propose(commit(2))
        await TrashService(leader, "test").delete_versions(
            trash_pb2.DeleteVersionsRequest(
                header=pb.WriteHeader(request_id=b"delete"), model="a/b", numbers=[1]
            )
        )
        with pytest.raises(VersionDeletedError):
            await over(leader).sign_version(one.request())

    tell(story)
