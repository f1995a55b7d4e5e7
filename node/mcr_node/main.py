"""The process of a served node: opens its store, listens, and ends well. The composition root of a node."""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mcr.addresses import Address
from mcr.blocking import settle
from mcr.errors import (
    AlreadyExistsError,
    DeadlineError,
    DestinationError,
    DivergedError,
    InvalidArgumentError,
    McrError,
    NoQuorumError,
    StoreNotFoundError,
    UnavailableError,
)
from mcr.v1 import admin_pb2 as admin
from mcr_node.assembly import Node, Parts, open_node
from mcr_node.config import DRAIN_S, NodeSettings
from mcr_node.ports import StorageFailure
from mcr_node.runtime.reseeding import Donors
from mcr_node.services.bulk import BulkServer
from mcr_node.services.edge import Edge
from mcr_node.services.membership import NODE_ID_LIMIT
from mcr_node.services.myself import Myself
from mcr_node.services.public import PublicServer
from mcr_node.services.settling import Settling
from mcr_node.storage import node_folder, store_folder, successor
from mcr_node.storage.node_folder import NodeIdentity, NodeInfo
from mcr_node.storage.store_folder import StoreIdentity
from mcr_node.telemetry import Telemetry
from mcr_node.transport.colleagues import GrpcColleagues
from mcr_node.transport.fetching import GrpcDonors
from mcr_node.transport.lines import LineServer
from mcr_node.transport.peers import GrpcPeers, Sender
from mcr_node.transport.receiving import Owner, RaftEdge

if TYPE_CHECKING:
    from mcr_node.web.probes import Probes

# How long a node that joins looks for a member that takes it in; several elections.
JOIN_S = 10.0
JOIN_POLL_S = 0.2
_ENDING = (signal.SIGTERM, signal.SIGINT)


def run(settings: NodeSettings, told: Callable[[NodeInfo], None]) -> None:
    """Serve until a signal says to end; returns when everything is synced and released.

    Args:
        settings: see NodeSettings.
        told: called once the node serves.

    Raises:
        McrError: it could not start, or its log failed while it ran.
    """
    asyncio.run(_serve(settings, told))


async def _serve(settings: NodeSettings, told: Callable[[NodeInfo], None]) -> None:
    ending = _end_by_signal()
    colleagues = GrpcColleagues()
    try:
        identity = await establish(settings, colleagues)
        while True:
            try:
                await _serve_as(identity, settings, colleagues, ending, told)
            except ReseededError as error:
                # With the state of another node: opened again as after any restart, where it listened before.
                settings, told = error.settings, _tell_nobody
            else:
                return
    finally:
        await colleagues.close()


async def _serve_as(
    identity: NodeIdentity,
    settings: NodeSettings,
    colleagues: GrpcColleagues,
    ending: asyncio.Event,
    told: Callable[[NodeInfo], None],
) -> None:
    myself = Myself(identity.name, str(settings.listen), identity.site, settings.capacity_bytes)
    node = await open_node(settings.data, myself, parts=_parts_of(identity, settings, colleagues))
    peers: GrpcPeers | None = None
    try:
        telemetry = Telemetry()
        owner = Owner(node.cluster_id, node.runner.node_id)
        raft = RaftEdge(owner, node.runner, node.snapshots, node.given, node.read_executor)
        server = _server_of(node, telemetry, raft)
        bulk = BulkServer(node.chunks, telemetry, _die)
        lines = LineServer(raft.take)
        probes = None if settings.http is None else _probes(node, telemetry)
        background: list[asyncio.Task[None]] = []
        try:
            listen, http = await _listen(settings, server, probes)
            node.admin.move_to(str(listen))
            node.admin.bulk_port, node.admin.bulk_key = bulk.listen(listen.host), bulk.key
            await server.start(listen.host)
            await lines.listen(listen.host)
            sender = Sender(node.cluster_id, node.runner.node_id, str(listen), lines.place)
            peers = GrpcPeers(sender, node.runner)
            raft.on_place(peers.tell_place)
            await node.runner.start(peers)
            background = [
                asyncio.create_task(node.admin.announce_for_ever()),
                asyncio.create_task(node.admin.membership.promote_for_ever()),
                asyncio.create_task(node.admin.digests.check_for_ever()),
                asyncio.create_task(Settling(node.log).settle_for_ever()),
            ]
            assert node.upkeep is not None, "a served node has others to ask"
            background.append(asyncio.create_task(node.upkeep.work_for_ever(telemetry.bug)))
            settings = replace(settings, listen=listen, http=http)
            info = NodeInfo(identity.name, str(listen), str(http or ""), os.getpid())
            node_folder.write_info(settings.data, info)
            told(info)
            try:
                await _until(ending, node)
            except DivergedError as error:
                # It goes on to answer, so that clients and the other nodes hear why it does nothing else.
                _say(f"{error.message}; fetching it anew from the leader")
                if await _reseed(node, GrpcDonors(sender, node.read_executor), ending):
                    raise ReseededError(settings) from error
        finally:
            await settle(background)
            await server.drain(DRAIN_S)
            await lines.close()
            await asyncio.to_thread(bulk.close)
            if probes is not None:
                await probes.close()
            node_folder.remove_info(settings.data)
    finally:
        if peers is not None:
            await peers.close()
        await node.close()


def _parts_of(identity: NodeIdentity, settings: NodeSettings, colleagues: GrpcColleagues) -> Parts:
    return Parts(
        timing=settings.timing,
        joins=identity.node_id is not None,
        others=colleagues,
        pace=settings.pace,
        node_id=identity.node_id,
        on_failure=_die,
        cache_bytes=settings.cache_bytes,
    )


def _server_of(node: Node, telemetry: Telemetry, raft: RaftEdge) -> PublicServer:
    return PublicServer(
        Edge(node.clock, telemetry),
        versions=node.versions,
        merges=node.merges,
        receipts=node.receipts,
        policies=node.policies,
        sessions=node.sessions,
        trash=node.trash,
        retention=node.retention,
        chunks=node.chunks,
        admin=node.admin,
        layout=node.layout,
        register=raft.register,
        end_peers=raft.end,
        explain=node.needing.explain,
        quotas=node.quotas,
        giving=node.giving,
    )


async def establish(settings: NodeSettings, colleagues: GrpcColleagues) -> NodeIdentity:
    """Make the folder that of this node, if it may be, and return who the node is.

    Raises:
        AlreadyExistsError: the folder is that of another node, or the cluster has one of that name.
        InvalidArgumentError: the folder holds a store that no node has served, the site differs, or nothing
            is there and neither `bootstrap` nor `join` was asked for.
    """
    successor.finish(settings.data)
    found = node_folder.read(settings.data)
    if found is not None:
        if found.name != settings.name:
            raise AlreadyExistsError(
                "node", found.name, f"in {settings.data}, so it cannot be {settings.name}"
            )
        if settings.site not in ("", found.site):
            raise InvalidArgumentError("--site", f"{found.name} is at {found.site or 'no site'!r} for good")
        if _has_store(settings.data):
            return found
        # It asked to join and ended before it was answered: asked again under the same id.
    if settings.join:
        return await _join(settings, found, colleagues)
    if not settings.bootstrap:
        is_store = _has_store(settings.data)
        what = "is an embedded store" if is_store else "holds no node yet"
        to_do = "to serve it as a cluster" if is_store else "to make a new cluster there"
        raise InvalidArgumentError(
            "--bootstrap", f"{settings.data} {what}; give the flag once {to_do}, or --join to join one"
        )
    if not _has_store(settings.data):
        identity = StoreIdentity(secrets.token_bytes(store_folder.STORE_ID_BYTES), "auto")
        store_folder.create(settings.data, identity)
    wanted = NodeIdentity(settings.name, settings.site)
    node_folder.write(settings.data, wanted)
    return wanted


def _has_store(data: Path) -> bool:
    try:
        store_folder.read(data)
    except StoreNotFoundError:
        return False
    return True


async def _join(
    settings: NodeSettings, found: NodeIdentity | None, colleagues: GrpcColleagues
) -> NodeIdentity:
    """Ask to be taken into a cluster, and make the folder of a member of it."""
    if found is None and _has_store(settings.data):
        raise InvalidArgumentError(
            "--join", f"{settings.data} holds a store of its own; join with a new, empty folder"
        )
    if settings.listen.port == 0:
        raise InvalidArgumentError("--listen", "the others must know the port of a node that joins; name one")
    identity = found or NodeIdentity(settings.name, settings.site, secrets.randbelow(NODE_ID_LIMIT - 1) + 1)
    request = admin.AddMemberRequest(
        node_id=identity.node_id or 0,
        name=identity.name,
        address=str(settings.listen),
        site=identity.site,
        capacity_bytes=settings.capacity_bytes or 0,
    )
    answer = await _ask_to_join(settings.join, request, colleagues)
    # What was kept for it by `mcr cluster add`, else its own.
    identity = NodeIdentity(identity.name, answer.site or identity.site, answer.node_id or identity.node_id)
    encoding: store_folder.Encoding = "raw" if answer.encoding == "raw" else "auto"
    store_folder.create(settings.data, StoreIdentity(answer.cluster_id, encoding))
    node_folder.write(settings.data, identity)
    return identity


async def _ask_to_join(
    members: Sequence[Address], request: admin.AddMemberRequest, colleagues: GrpcColleagues
) -> admin.AddMemberResponse:
    """Ask one member after the other, and all again while a cluster elects, or a machine is busy."""
    give_up_s = asyncio.get_running_loop().time() + JOIN_S
    while True:
        for address in members:
            try:
                return await colleagues.admin(str(address), "AddMember", request, admin.AddMemberResponse)
            except (UnavailableError, NoQuorumError, DeadlineError) as error:
                failure: McrError = error
        if asyncio.get_running_loop().time() >= give_up_s:
            raise failure
        await asyncio.sleep(JOIN_POLL_S)


def _end_by_signal() -> asyncio.Event:
    """Return what is set by the first signal to end. The second one ends the process on the spot."""
    ending = asyncio.Event()

    def end(number: signal.Signals) -> None:
        if ending.is_set():
            os._exit(128 + number)
        ending.set()

    for number in _ENDING:
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    return ending


def _die(error: StorageFailure) -> NoReturn:
    # Nothing after a failed sync can be trusted, not even an orderly end: what is on disk decides at the next
    # start. The other threads of this process must not write one more byte.
    with suppress(OSError):
        os.write(sys.stderr.fileno(), f"error: the disk failed; this node ends: {error}\n".encode())
    os._exit(1)


def _probes(node: Node, telemetry: Telemetry) -> "Probes":
    # Its library is a quarter of what a node loads to start, and most nodes have no probes.
    from mcr_node.web.probes import Probes

    return Probes(node.admin, telemetry)


async def _listen(
    settings: NodeSettings, server: PublicServer, probes: "Probes | None"
) -> tuple[Address, Address | None]:
    try:
        listen = Address(settings.listen.host, server.listen(str(settings.listen)))
    except RuntimeError as error:
        raise DestinationError(
            str(settings.listen), "cannot listen there: in use, or not of this machine"
        ) from error
    if settings.http is None or probes is None:
        return listen, None
    try:
        return listen, Address(
            settings.http.host, await probes.listen(settings.http.host, settings.http.port)
        )
    except OSError as error:
        raise DestinationError(
            str(settings.http), f"cannot listen there: {error.strerror or error}"
        ) from error


class ReseededError(Exception):
    """The node has another state and must be opened anew; `settings` say where it was bound."""

    def __init__(self, settings: NodeSettings) -> None:
        super().__init__("the state was replaced")
        self.settings = settings


async def _reseed(node: Node, donors: Donors, ending: asyncio.Event) -> bool:
    """Put another node's state in the place of one that is wrong; False when a signal to end came first."""
    divergence = node.runner.digests.divergence
    assert divergence is not None
    reseeding = asyncio.create_task(node.reseeding().run(divergence, donors))
    signalled = asyncio.create_task(ending.wait())
    try:
        await asyncio.wait([reseeding, signalled], return_when=asyncio.FIRST_COMPLETED)
        if not reseeding.done():
            return False
        position = reseeding.result()
        _say(f"the state at log index {position.applied} took the place of the one that was wrong")
        return True
    finally:
        await settle([reseeding, signalled])


def _tell_nobody(_: NodeInfo) -> None:
    """Say nothing: that the node listens was said when it started."""


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


async def _until(ending: asyncio.Event, node: Node) -> None:
    """Wait for the signal to end, or for the log to fail.

    Raises:
        McrError: why the log takes no more writes. A restart opens it again from what is on disk.
    """
    signalled = asyncio.create_task(ending.wait())
    failed = asyncio.create_task(node.runner.wait_failed())
    try:
        await asyncio.wait([signalled, failed], return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            error: McrError = failed.result()
            raise error
    finally:
        await settle([signalled, failed])
