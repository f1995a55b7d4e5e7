"""Deletions, the trash and pins, as a client asks for them: parts of `AsyncModel` and `AsyncClient`."""

from collections.abc import Sequence

from mcr import _wire
from mcr.connection import Connection
from mcr.errors import InvalidArgumentError
from mcr.keeping import Deleted, Pin, TrashItem
from mcr.model import RefKind
from mcr.reading import PAGE_MAX, ModelReader
from mcr.references import DEFAULT_BRANCH
from mcr.reporting import write_header
from mcr.v1 import trash_pb2 as pb

# In one call, and one entry of the log.
VERSIONS_PER_CALL = 256


class TrashCalls(ModelReader):
    """The methods of `AsyncModel` about what stays and what goes."""

    async def delete(
        self,
        refs: Sequence[str],
        *,
        reason: str = "",
        keep_s: float | None = None,
        skip_in_use: bool = False,
    ) -> Deleted:
        """Put versions into the trash. Their records and numbers stay; their bytes go after a while.

        Up to 256 of them go together: all, or none when one of them is needed. Of more, earlier ones may have
        gone when a later one is refused.

        Args:
            refs: the versions. A branch, tag or channel names the version it is at, which is then in use.
            reason: kept with the deletion.
            keep_s: how long they can be restored; None = as long as the node was told, a week by default.
            skip_in_use: leave out what is needed, rather than refuse.

        Raises:
            VersionInUseError: a ref, a pin, a receipt or the way back of a channel needs one; says which.
            VersionDeletedError: one is gone for good.
        """
        numbers = sorted({await self._number(ref) for ref in refs})
        if not numbers:
            raise InvalidArgumentError("refs", "name at least one version")
        deleted: list[int] = []
        until_ms = 0
        for start in range(0, len(numbers), VERSIONS_PER_CALL):
            answer = await self._connection.trash.delete_versions(
                pb.DeleteVersionsRequest(
                    header=write_header(None),
                    model=self.name,
                    numbers=numbers[start : start + VERSIONS_PER_CALL],
                    reason=reason,
                    keep_ms=_milliseconds(keep_s),
                    skip_in_use=skip_in_use,
                )
            )
            deleted += answer.numbers
            until_ms = answer.until_ms
        return Deleted(tuple(deleted), until_ms)

    async def delete_tag(self, name: str, *, reason: str = "") -> None:
        """Delete a tag; the version it named, and the history of the name, stay."""
        await self._delete_name(RefKind.TAG, name, reason)

    async def delete_channel(self, name: str, *, reason: str = "") -> None:
        """Delete a channel; versions and history stay.

        Raises:
            ProtectedError: it has actors, and the caller is none of them.
        """
        await self._delete_name(RefKind.CHANNEL, name, reason)

    async def _delete_name(self, kind: RefKind, name: str, reason: str) -> None:
        await self._connection.trash.delete_name(
            pb.DeleteNameRequest(
                header=write_header(None),
                model=self.name,
                kind=_wire.kind_to_wire(kind),
                name=name,
                reason=reason,
            )
        )

    async def delete_all(self, *, reason: str = "", keep_s: float | None = None) -> Deleted:
        """Delete the channels, tags and branches of the model, then put all its versions into the trash.

        Interrupted, the same call goes on. What comes back with `restore` is the versions and branch `main`.

        Raises:
            VersionInUseError: a version is pinned, or somebody has it loaded; names are gone by then.
            ProtectedError: a channel has actors, and the caller is none of them.
        """
        for kind in (RefKind.CHANNEL, RefKind.TAG, RefKind.BRANCH):
            for ref in await self.refs(kind):
                if (kind, ref.name) != (RefKind.BRANCH, DEFAULT_BRANCH):
                    await self._delete_name(kind, ref.name, reason)
        answer = await self._connection.trash.delete_model(
            pb.DeleteModelRequest(
                header=write_header(None), model=self.name, reason=reason, keep_ms=_milliseconds(keep_s)
            )
        )
        return Deleted((), answer.until_ms)

    async def restore(self, versions: Sequence[int] = ()) -> int:
        """Take versions out of the trash, or the whole model when none is named; return how many were there.

        Raises:
            VersionDeletedError: one is gone for good.
        """
        restored = 0
        for part in _parts(versions):
            answer = await self._connection.trash.restore_versions(
                pb.RestoreVersionsRequest(header=write_header(None), model=self.name, numbers=part)
            )
            restored += answer.count
        return restored

    async def trash(self) -> list[TrashItem]:
        """List what of the model is in the trash, what goes first before the rest."""
        return await list_trash(self._connection, self.name)

    async def empty_trash(self, versions: Sequence[int] = ()) -> int:
        """Give up what of the model is in the trash, or only these versions; return how many were given up.

        Their bytes go with the garbage, after two marks more.

        Raises:
            VersionInUseError: somebody has one of them loaded.
        """
        if versions:
            purged = 0
            for part in _parts(versions):
                purged += await self._empty(part)
            return purged
        items = await self.trash()
        numbers = [item.number for item in items if not item.whole_model]
        purged = await self.empty_trash(numbers) if numbers else 0
        for _ in (item for item in items if item.whole_model):
            purged += await self._empty(())
        return purged

    async def _empty(self, numbers: Sequence[int]) -> int:
        answer = await self._connection.trash.empty_trash(
            pb.EmptyTrashRequest(header=write_header(None), model=self.name, numbers=numbers)
        )
        return answer.count

    async def pin(self, ref: str, *, reason: str = "") -> bool:
        """Keep a version from being deleted; return whether it was not pinned before."""
        answer = await self._connection.trash.pin_version(
            pb.PinVersionRequest(
                header=write_header(None), model=self.name, number=await self._number(ref), reason=reason
            )
        )
        return not answer.already

    async def unpin(self, ref: str) -> bool:
        """Take the pin of a version away; return whether there was one."""
        answer = await self._connection.trash.unpin_version(
            pb.UnpinVersionRequest(header=write_header(None), model=self.name, number=await self._number(ref))
        )
        return not answer.already

    async def pins(self) -> list[Pin]:
        """List the pinned versions by number."""
        found: list[Pin] = []
        while True:
            answer = await self._connection.trash.list_pins(
                pb.ListPinsRequest(model=self.name, after=found[-1].number if found else 0, limit=PAGE_MAX)
            )
            found += [Pin(pin.number, pin.actor, pin.reason, pin.at_ms) for pin in answer.pins]
            if len(answer.pins) < PAGE_MAX:
                return found


class TrashOfAll:
    """The methods of `AsyncClient` about the trash of all models; it brings the connection."""

    _connection: Connection

    async def trash(self) -> list[TrashItem]:
        """List what is in the trash, of all models, what goes first before the rest."""
        return await list_trash(self._connection, "")

    async def empty_trash(self) -> int:
        """Give up all that is in the trash; return how much was given up. What is loaded somewhere stays."""
        purged = 0
        while True:
            answer = await self._connection.trash.empty_trash(pb.EmptyTrashRequest(header=write_header(None)))
            purged += answer.count
            if not answer.more or not answer.count:
                return purged


async def list_trash(connection: Connection, model: str) -> list[TrashItem]:
    """List what is in the trash; of all models for ""."""
    found: list[TrashItem] = []
    after = b""
    while True:
        answer = await connection.trash.list_trash(
            pb.ListTrashRequest(model=model, after=after, limit=PAGE_MAX)
        )
        found += [
            TrashItem(
                item.model,
                item.number,
                item.whole_model,
                item.actor,
                item.reason,
                item.deleted_at_ms,
                item.until_ms,
                item.bytes_total,
            )
            for item in answer.items
        ]
        if len(answer.items) < PAGE_MAX:
            return found
        after = answer.items[-1].key


def _parts(versions: Sequence[int]) -> list[list[int]]:
    numbers = sorted(set(versions))
    return [
        numbers[start : start + VERSIONS_PER_CALL]
        for start in range(0, max(1, len(numbers)), VERSIONS_PER_CALL)
    ]


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(1000 * seconds)
