"""A node as a process of its own, and clients on the other side of the network."""

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import mcr
from mcr import errors
from mcr._frames import encode
from mcr.model import Chunk, Event
from mcr.v1 import chunks_pb2, versions_pb2
from tests.support.served import COMMAND, INTERRUPTIBLE, ServedNode, bytes_from, mcr_command

MIB = 1 << 20
M = "vision/resnet50"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    """Serve one node for all tests that leave it as it is; each uses models of its own."""
    served = ServedNode(tmp_path_factory.mktemp("node") / "data", options=("--site", "ams")).start(
        "--bootstrap"
    )
    yield served
    served.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ServedNode]:
    """Serve a node that the test may break."""
    served = ServedNode(tmp_path / "data").start("--bootstrap")
    yield served
    served.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_text('{"layers": 2}\n')
    (folder / "model.bin").write_bytes(bytes_from(1, 3 * MIB + 17))
    (folder / "deep" / "empty").touch()
    return folder


def same(a: Path, b: Path) -> bool:
    def content(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    return content(a) == content(b)


def unused_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


# ---- the same stories as in an embedded store ----


def test_the_terminal_story_over_the_network(node: ServedNode, source: Path, tmp_path: Path) -> None:
    def run(*arguments: str, status: int = 0) -> "subprocess.CompletedProcess[str]":
        done = mcr_command(*arguments, cluster=node.listen)
        assert done.returncode == status, done
        return done

    model = "story/told"
    assert run("commit", model, str(source), "-m", "one", "--metric", "loss=0.5").stdout == f"{model}@v1\n"
    (source / "config.json").write_text('{"layers": 3}\n')
    record = json.loads(run("commit", model, str(source), "-m", "two", "--json", "--expect", "v1").stdout)
    assert (record["version"], record["chunks_new"]) == ("v2", 1)
    assert record["creator"].startswith("unverified:")
    assert run("commit", model, str(source), "-m", "late", "--expect", "v1", status=10).stderr.startswith(
        "error: "
    )
    run("channel", model, "production", "--set", "v1", "--reason", "first")
    run("channel", model, "production", "--set", "v2", "--reason", "better")
    assert run("rollback", model, "--channel", "production", "--reason", "p99").stdout == f"{model}@v1\n"
    run("tag", model, "release", "v2")
    run("branch", model, "side", "--at", "v1")
    assert len(run("log", model).stdout.splitlines()) == 2
    assert "p99" in run("channel", model, "production", "--history").stdout
    run("checkout", f"{model}@tag:release", str(tmp_path / "out"))
    assert same(source, tmp_path / "out")
    assert run("cat", f"{model}@v1", "config.json").stdout == '{"layers": 2}\n'
    assert "config.json" in run("diff", f"{model}@v1", f"{model}@v2").stdout
    run("doctor", "--quick")


def test_the_python_story_over_the_network(node: ServedNode, source: Path, tmp_path: Path) -> None:
    with mcr.connect(f"grpc://{node.listen}", timeout_s=60) as client:
        assert client.location == node.listen
        model = client.model("story/python")
        first = model.commit(source, message="one", params={"lr": 1e-4}, request_id="only-once")
        again = model.commit(source, message="one", params={"lr": 1e-4}, request_id="only-once")
        assert (first.number, again.number, again.chunks_new) == (1, 1, 0)
        model.channel("production").set("v1", reason="eval passed")
        with model.open("v1", "model.bin") as file:
            file.seek(MIB)
            assert file.read(100) == (source / "model.bin").read_bytes()[MIB : MIB + 100]
        model.checkout("channel:production", tmp_path / "out")
        assert same(source, tmp_path / "out")
        assert client.status().applied_index >= 2
        with pytest.raises(errors.ReferenceNotFoundError, match="story/python@v9"):
            model.show("v9")


def test_several_clients_in_one_process_work_side_by_side(node: ServedNode, source: Path) -> None:
    found: list[int] = []

    def work(number: int) -> None:
        with mcr.connect(node.listen) as client:
            found.append(client.model(f"many/m{number}").commit(source).number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [1] * 4


def test_many_small_files_and_repeated_chunks_travel(node: ServedNode, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number:03}.txt").write_bytes(b"same" * 100 if number % 2 else bytes_from(number, 300))
    (folder / "zeros.bin").write_bytes(bytes(9 * MIB))
    with mcr.connect(node.listen) as client:
        done = client.model("story/small").commit(folder)
        assert done.bytes_sent < MIB + 300 * 400
        client.model("story/small").checkout("v1", tmp_path / "out")
    assert same(folder, tmp_path / "out")


def test_a_store_made_by_init_is_served_and_opened_again_as_a_folder(tmp_path: Path, source: Path) -> None:
    data = tmp_path / "data"
    mcr.init(data)
    with mcr.connect(data) as client:
        client.model(M).commit(source, message="before")
    served = ServedNode(data).start("--bootstrap")
    try:
        with mcr.connect(served.listen) as client:
            assert client.model(M).commit(source, message="while").number == 2
        with pytest.raises(errors.StoreBusyError):
            mcr.connect(data)
        assert served.stop()[0] == 0
    finally:
        served.close()
    with mcr.connect(data) as client:
        assert [version.description for version in client.model(M).log()] == ["while", "before"]


# ---- what a node says about itself ----


def test_status_and_members_say_what_one_voter_is(node: ServedNode) -> None:
    record = json.loads(mcr_command("cluster", "status", "--json", cluster=node.listen).stdout)
    (member,) = record["members"]
    assert (record["leader"], record["chunks_under_replicated"], record["alarms"]) == ("n1", 0, [])
    assert record["term"] >= 1
    assert (member["name"], member["address"], member["site"]) == ("n1", node.listen, "ams")
    assert (member["role"], member["healthy"]) == ("voter", True)
    assert member["applied_index"] <= record["applied_index"]
    assert member["bytes_free"] > 0
    assert json.loads(mcr_command("cluster", "members", "--json", cluster=node.listen).stdout)["name"] == "n1"
    assert "leader n1" in mcr_command("cluster", "status", cluster=node.listen).stdout


def test_probes_and_metrics_answer(node: ServedNode) -> None:
    assert get(f"http://{node.http}/healthz") == (200, "ok\n")
    assert get(f"http://{node.http}/readyz") == (200, "ready\n")
    status, text = get(f"http://{node.http}/metrics")
    assert status == 200
    assert "mcr_ready 1.0" in text
    assert "# TYPE mcr_call_seconds histogram" in text
    assert get(f"http://{node.http}/nothing")[0] == 404


def test_health_and_reflection_are_there_for_ordinary_tools(node: ServedNode) -> None:
    with grpc.insecure_channel(node.listen) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        replies = reflection.ServerReflectionInfo(iter([asked]), timeout=20)
        names = {service.name for service in next(iter(replies)).list_services_response.service}
    assert names >= {"mcr.v1.VersionsService", "mcr.v1.ChunksService", "mcr.v1.AdminService"}


# ---- what a client may not do ----


def refused(node: ServedNode, path: str, request: bytes, *, stream: bool = False) -> grpc.StatusCode:
    channel: Any
    with grpc.insecure_channel(node.listen) as channel:
        try:
            if stream:
                channel.stream_unary(path)(iter([request]), timeout=20)
            else:
                channel.unary_unary(path)(request, timeout=20)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def test_bytes_that_are_not_what_they_say_are_never_stored(node: ServedNode) -> None:
    honest = Chunk.of(b"weights as they are")
    forged = encode([Chunk(honest.id, b"weights as they were")])
    put = "/mcr.v1.ChunksService/PutChunks"
    assert refused(node, put, forged, stream=True) is grpc.StatusCode.DATA_LOSS
    channel: Any
    with grpc.insecure_channel(node.listen) as channel:
        ask = channel.unary_unary("/mcr.v1.ChunksService/FindMissing")
        request = chunks_pb2.FindMissingRequest(ids=[honest.id])
        answer = chunks_pb2.FindMissingResponse.FromString(ask(request.SerializeToString(), timeout=20))
    assert list(answer.ids) == [honest.id]


def test_a_promise_and_its_sync_name_one_life_of_the_process(node: ServedNode) -> None:
    asked = chunks_pb2.FindMissingRequest(ids=[Chunk.of(b"weights").id]).SerializeToString()
    channel: Any
    with grpc.insecure_channel(node.listen) as channel:
        promised = channel.unary_unary("/mcr.v1.ChunksService/FindMissing")(asked, timeout=20)
        synced = channel.unary_unary("/mcr.v1.ChunksService/SyncChunks")(b"", timeout=20)
    life = chunks_pb2.FindMissingResponse.FromString(promised).life
    assert life
    assert chunks_pb2.SyncChunksResponse.FromString(synced).life == life


@pytest.mark.parametrize(
    ("path", "request_bytes", "stream", "status"),
    [
        ("VersionsService/GetVersion", b"\xff\xff", False, grpc.StatusCode.INVALID_ARGUMENT),
        ("VersionsService/Unknown", b"", False, grpc.StatusCode.UNIMPLEMENTED),
        ("VersionsService/CommitVersion", b"", False, grpc.StatusCode.INVALID_ARGUMENT),
        ("ChunksService/PutChunks", b"no frame", True, grpc.StatusCode.INVALID_ARGUMENT),
        ("ChunksService/PutChunks", bytes(6 * MIB), True, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (
            "ChunksService/FindMissing",
            chunks_pb2.FindMissingRequest(ids=[b"short"]).SerializeToString(),
            False,
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (
            "VersionsService/ListModels",
            versions_pb2.ListModelsRequest(limit=0).SerializeToString(),
            False,
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ],
)
def test_wrong_input_is_refused_and_the_node_lives_on(
    node: ServedNode, path: str, request_bytes: bytes, stream: bool, status: grpc.StatusCode
) -> None:
    assert refused(node, f"/mcr.v1.{path}", request_bytes, stream=stream) is status
    assert get(f"http://{node.http}/healthz")[0] == 200


def test_a_node_takes_no_more_than_its_capacity_and_still_rolls_back(tmp_path: Path, source: Path) -> None:
    served = ServedNode(tmp_path / "data", options=("--capacity", str(64 * MIB))).start("--bootstrap")
    try:
        with mcr.connect(served.listen) as client:
            model = client.model(M)
            model.commit(source, message="one")
            model.commit(source, message="two", params={"n": 2})
            model.channel("production").set("v1")
            model.channel("production").set("v2")
            (source / "big.bin").write_bytes(bytes_from(3, 70 * MIB))
            with pytest.raises(errors.OutOfSpaceError, match="capacity"):
                model.commit(source, message="too big")
            assert model.channel("production").rollback(reason="still possible").number == 1
            (member,) = client.cluster_status().members
            assert member.bytes_free < 10 * MIB
    finally:
        served.close()


def test_long_lists_come_in_pages_that_fit(node: ServedNode, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("one")
    with mcr.connect(node.listen) as client:
        model = client.model("story/pages")
        for number in range(4):
            model.commit(tmp_path / "one.txt", params={"notes": "x" * 900_000, "n": number})
        assert [version.number for version in model.log(limit=10)] == [4, 3, 2, 1]
        for number in range(25):
            model.channel(f"c{number:02}").set("v1")
            model.channel(f"c{number:02}").protect(
                {"actors": [f"{actor:03}" + "𝄞" * 253 for actor in range(100)]}
            )
        assert [ref.name for ref in model.refs(mcr.RefKind.CHANNEL)] == [f"c{n:02}" for n in range(25)]


# ---- fresh, and in order ----


def test_a_read_waits_for_the_index_it_asks_for_and_gives_up_in_time(node: ServedNode) -> None:
    with mcr.connect(node.listen) as client:
        now = client.status().applied_index
    channel: Any
    with grpc.insecure_channel(node.listen) as channel:
        call = channel.unary_unary("/mcr.v1.VersionsService/ListModels")

        def models(**read: Any) -> versions_pb2.ListModelsResponse:  # noqa: ANN401 (fields of ReadOptions)
            options = versions_pb2.ReadOptions(**read)
            request = versions_pb2.ListModelsRequest(limit=10, read=options).SerializeToString()
            return versions_pb2.ListModelsResponse.FromString(call(request, timeout=1.0))

        assert models(at_least_index=now).log_index >= now
        stale = models(at_least_index=now + 1000, stale_ok=True)
        assert stale.HasField("age_max_ms")
        with pytest.raises(grpc.RpcError) as raised:
            models(at_least_index=now + 1000)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_watcher_misses_nothing_across_a_restart_of_the_node(own: ServedNode, source: Path) -> None:
    seen: list[Event] = []
    with mcr.connect(own.listen) as writer, mcr.connect(own.listen) as watcher:
        model = writer.model(M)
        model.commit(source, message="one")
        events = watcher.model(M).watch(since=0)
        seen.append(next(events))
        own.kill()
        own.start()
        model.commit(source, message="two")
        model.channel("production").set("v2", reason="go")
        seen += [next(events), next(events)]
        events.close()
    assert [(str(each.kind), each.move.verb, each.move.number) for each in seen] == [
        ("branch", "commit", 1),
        ("branch", "commit", 2),
        ("channel", "set", 2),
    ]
    assert [each.version.description if each.version else None for each in seen] == ["one", "two", None]
    assert [each.log_index for each in seen] == sorted({each.log_index for each in seen})


def test_a_watcher_of_the_future_sees_what_comes_and_nothing_before(node: ServedNode, source: Path) -> None:
    async def story() -> list[Event]:
        async with await mcr.aio.connect(node.listen) as client:
            model = client.model("story/future")
            await model.commit(source, message="before")
            events = model.watch()
            first = asyncio.ensure_future(anext(events))
            # Whatever comes first from a stream that began is after the commit before it.
            while not first.done():
                await model.commit(source, message="after")
                await asyncio.wait([first], timeout=0.5)
            await events.aclose()
            return [first.result()]

    (event,) = asyncio.run(story())
    assert event.version is not None
    assert event.version.description == "after"


# ---- bad days ----


def test_a_commit_survives_the_death_of_its_node(own: ServedNode, tmp_path: Path) -> None:
    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "model.bin").write_bytes(bytes_from(2, 48 * MIB))
    killed = threading.Event()

    def kill_in_the_middle(progress: "mcr.committing.CommitProgress") -> None:
        if progress.bytes_done > 16 * MIB and not killed.is_set():
            killed.set()
            own.kill()
            threading.Thread(target=own.start).start()

    with mcr.connect(own.listen, timeout_s=100) as client:
        done = client.model(M).commit(folder, message="survived", progress=kill_in_the_middle)
        assert killed.is_set()
        assert done.number == 1
        assert len(client.model(M).log()) == 1
        client.model(M).checkout("v1", tmp_path / "out", verify=True)
    assert same(folder, tmp_path / "out")


def test_what_was_answered_is_there_after_a_kill(own: ServedNode, source: Path, tmp_path: Path) -> None:
    with mcr.connect(own.listen) as client:
        client.model(M).commit(source, message="one")
        client.model(M).channel("production").set("v1")
        own.kill()
        own.start()
        client.model(M).checkout("channel:production", tmp_path / "out")
    assert same(source, tmp_path / "out")


def test_of_two_addresses_the_one_that_lives_is_used(node: ServedNode) -> None:
    for addresses in (f"{unused_address()},{node.listen}", f"{node.listen},{unused_address()}"):
        done = mcr_command("cluster", "status", "--json", cluster=addresses)
        assert json.loads(done.stdout)["leader"] == "n1"


def test_a_client_moves_on_when_its_node_dies(tmp_path: Path, source: Path) -> None:
    # Two clusters with the same content stand for two nodes of one.
    first = ServedNode(tmp_path / "a", name="a").start("--bootstrap")
    second = ServedNode(tmp_path / "b", name="b")
    try:
        with mcr.connect(first.listen) as client:
            client.model(M).commit(source, message="both have it", request_id="r")
        first.stop()
        shutil.copytree(first.data, second.data)
        (second.data / "NODE").unlink()
        first.start()
        second.start("--bootstrap")
        with mcr.connect(f"{first.listen},{second.listen}") as client:
            used = client.cluster_status().leader
            (first if used == "a" else second).kill()
            assert [version.description for version in client.model(M).log()] == ["both have it"]
            assert client.cluster_status().leader == ("b" if used == "a" else "a")
    finally:
        first.close()
        second.close()


def test_nobody_there_is_exit_11_and_a_deadline_exit_15() -> None:
    addresses = f"{unused_address()},{unused_address()}"
    done = mcr_command("log", M, "--json", cluster=addresses)
    assert (done.returncode, json.loads(done.stderr)["error"]) == (11, "unavailable")
    assert addresses in done.stderr
    assert "mcr node start" in json.loads(done.stderr)["hint"]
    late = mcr_command("log", M, "--json", "--timeout", "1", cluster=addresses)
    assert (late.returncode, json.loads(late.stderr)["error"]) == (15, "deadline")


def test_a_node_that_hangs_is_noticed_within_the_deadline(own: ServedNode) -> None:
    with mcr.connect(own.listen, timeout_s=2) as client:
        own.signal(signal.SIGSTOP)
        try:
            with pytest.raises(errors.DeadlineError):
                client.models()
        finally:
            own.signal(signal.SIGCONT)
        assert client.models() == []


def test_a_hanging_node_is_left_for_one_that_answers(tmp_path: Path) -> None:
    nodes = [ServedNode(tmp_path / name, name=name).start("--bootstrap") for name in ("a", "b")]
    try:
        with mcr.connect(",".join(node.listen for node in nodes), timeout_s=60) as client:
            used = client.cluster_status().leader
            hung = nodes[0] if used == "a" else nodes[1]
            hung.signal(signal.SIGSTOP)
            try:
                assert client.cluster_status().leader != used
            finally:
                hung.signal(signal.SIGCONT)
    finally:
        for node in nodes:
            node.close()


# ---- the process ----


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_node_well_even_with_a_watcher_on(tmp_path: Path, number: signal.Signals) -> None:
    served = ServedNode(tmp_path / "data").start("--bootstrap")
    channel: Any = grpc.insecure_channel(served.listen)
    try:
        request = versions_pb2.WatchEventsRequest(after_index=0).SerializeToString()
        stream = channel.unary_stream("/mcr.v1.VersionsService/WatchEvents")(request)
        next(iter(stream))
        served.signal(number)
        status, talk = served.ended()
        assert (status, "Traceback" in talk) == (0, False)
        assert not (served.data / "node.json").exists()
    finally:
        channel.close()
        served.close()


def test_a_stop_waits_for_an_upload_under_way_and_a_second_signal_does_not(tmp_path: Path) -> None:
    served = ServedNode(tmp_path / "data").start("--bootstrap")
    channel: Any = grpc.insecure_channel(served.listen)
    never = threading.Event()

    def frames() -> Iterator[bytes]:
        yield encode([Chunk.of(b"weights")])
        never.wait(60)

    try:
        upload = channel.stream_unary("/mcr.v1.ChunksService/PutChunks").future(frames(), timeout=60)
        # The node has begun with it as soon as it counts its bytes.
        while "mcr_chunk_bytes_received_total 0.0" in get(f"http://{served.http}/metrics")[1]:
            assert not upload.done()
        served.signal(signal.SIGTERM)
        while get(f"http://{served.http}/readyz")[0] == 200:
            assert served.process is not None
        assert not upload.done()
        served.signal(signal.SIGTERM)
        assert served.ended()[0] == 128 + signal.SIGTERM
    finally:
        never.set()
        channel.close()
        served.close()


def test_a_node_starts_again_by_the_same_command_without_bootstrap(own: ServedNode) -> None:
    listen = own.listen
    assert own.stop()[0] == 0
    assert own.start().listen == listen


def test_a_node_does_not_start_where_it_should_not(own: ServedNode, tmp_path: Path) -> None:
    def tried(*options: str) -> "subprocess.CompletedProcess[str]":
        return mcr_command("node", "start", "--json", *options)

    taken = tried("--name", "n2", "--data", str(tmp_path / "other"), "--listen", own.listen, "--bootstrap")
    assert (taken.returncode, own.listen in taken.stderr) == (1, True)
    busy = tried("--name", "n1", "--data", str(own.data), "--listen", "127.0.0.1:0")
    assert (busy.returncode, json.loads(busy.stderr)["error"]) == (1, "store_busy")
    other = tried("--name", "n2", "--data", str(own.data), "--bootstrap")
    assert (other.returncode, json.loads(other.stderr)["error"]) == (10, "already_exists")
    nothing = tried("--name", "n1", "--data", str(tmp_path / "none"))
    assert (nothing.returncode, "--bootstrap" in nothing.stderr) == (2, True)
    assert tried("--data", str(own.data)).returncode == 2


def test_ctrl_c_in_a_commit_is_130_and_the_same_command_goes_on(node: ServedNode, tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(512 * MIB)
    arguments = ["commit", "story/interrupted", str(big), "-m", "big", "--cluster", node.listen]
    with subprocess.Popen(
        [*INTERRUPTIBLE, *arguments, "--progress"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stderr is not None
        seen = ""
        while "read" not in seen:
            piece = child.stderr.read(1)
            assert piece, f"ended before it was interrupted: {seen}"
            seen += piece
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert mcr_command(*arguments).stdout == "story/interrupted@v1\n"


def test_an_embedded_store_tells_its_events_too(tmp_path: Path, source: Path) -> None:
    mcr.init(tmp_path / "store")
    with mcr.connect(tmp_path / "store") as client:
        model = client.model(M)
        model.commit(source, message="one")
        model.channel("production").set("v1")
        events = model.watch(since=0)
        assert [next(events).move.verb, next(events).move.verb] == ["commit", "set"]
        events.close()
        (member,) = client.cluster_status().members
        assert (member.name, member.address) == ("embedded", str(tmp_path / "store"))


def test_a_client_is_of_no_use_in_a_child_of_its_process_and_says_so(node: ServedNode) -> None:
    script = f"""
import os, mcr
client = mcr.connect({node.listen!r})
calls = client._client._connection._calls
calls._process_id = os.getppid()
try:
    client.models()
except mcr.errors.FailedError as error:
    print(error)
"""
    done = subprocess.run(
        [*COMMAND[:1], "-c", script], check=False, capture_output=True, text=True, timeout=60
    )
    assert "connect again in the child" in done.stdout


def test_many_reports_go_in_few_calls_and_the_last_values_are_the_latest(
    node: ServedNode, source: Path
) -> None:
    with mcr.connect(node.listen) as cluster:
        model = cluster.model("batch/reports")
        model.commit(source)
        model.report_many("v1", [{"loss": 1.0 / step} for step in range(1, 601)])
        model.report_many("v1", [])

        assert model.show("v1").metrics == {"loss": 1.0 / 600}
        with pytest.raises(errors.InvalidMetricError):
            model.report_many("v1", [{"loss": 1.0}, {"loss": float("nan")}, {"acc": 2.0}])
        assert model.show("v1").metrics == {"loss": 1.0, "acc": 2.0}
