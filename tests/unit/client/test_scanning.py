import dataclasses
import os
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from mcr.errors import SourceChangedError, SourceNotFoundError, SourceUnreadableError
from mcr.model import EntryKind
from mcr.scanning import Source, check_unchanged, open_source, scan


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def paths(sources: list[Source]) -> list[str]:
    return [source.path for source in sources]


def test_a_single_file_is_committed_under_its_base_name(tmp_path: Path) -> None:
    file = write(tmp_path / "deep" / "model.bin", b"12345")
    file.chmod(0o755)

    [source] = scan(file)

    assert (source.path, source.kind, source.size_bytes) == ("model.bin", EntryKind.FILE, 5)
    assert source.executable
    assert source.absolute == str(file)


def test_a_link_given_as_the_source_is_followed_and_keeps_its_name(tmp_path: Path) -> None:
    write(tmp_path / "blob", b"123")
    (tmp_path / "model.bin").symlink_to("blob")
    write(tmp_path / "folder" / "a")
    (tmp_path / "link").symlink_to("folder")

    [source] = scan(tmp_path / "model.bin")

    assert (source.path, source.kind, source.size_bytes) == ("model.bin", EntryKind.FILE, 3)
    assert paths(scan(tmp_path / "link")) == ["a"]


def test_a_folder_is_walked_whole_in_byte_order_hidden_files_included(tmp_path: Path) -> None:
    for name in ["b", "a/2", "a-b", "a/1/x", ".hidden", ".git/HEAD", "Z", "é"]:
        write(tmp_path / name)
    expected = sorted([".hidden", ".git/HEAD", "Z", "a-b", "a/1/x", "a/2", "b", "é"], key=str.encode)
    assert paths(scan(tmp_path)) == expected
    assert paths(scan(str(tmp_path) + "/")) == expected


def test_the_store_and_an_unfinished_checkout_are_not_part_of_a_version(tmp_path: Path) -> None:
    for name in ["a", ".mcr/chunks/1", "d/.mcr/log", ".mcr-partial/x"]:
        write(tmp_path / name)
    found = scan(tmp_path)
    assert [(source.path, source.kind) for source in found] == [
        ("a", EntryKind.FILE),
        ("d", EntryKind.DIRECTORY),
    ]


def test_a_file_with_a_reserved_name_is_refused_and_not_skipped(tmp_path: Path) -> None:
    write(tmp_path / ".mcr")
    with pytest.raises(SourceUnreadableError, match="reserved"):
        scan(tmp_path)


def test_empty_folders_are_kept_and_others_follow_from_their_files(tmp_path: Path) -> None:
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    write(tmp_path / "full" / "a")
    found = scan(tmp_path)
    assert [(s.path, s.kind) for s in found] == [
        ("empty/inner", EntryKind.DIRECTORY),
        ("full/a", EntryKind.FILE),
    ]
    (tmp_path / "none").mkdir()
    assert scan(tmp_path / "none") == []


def test_links_inside_the_tree_are_kept_as_links(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a", b"data")
    (tmp_path / "d" / "up").symlink_to("../d/a")
    (tmp_path / "folder").symlink_to("d")
    (tmp_path / "chain").symlink_to("d/up")
    found = {source.path: source for source in scan(tmp_path)}
    assert {path: s.target for path, s in found.items() if s.kind is EntryKind.SYMLINK} == {
        "d/up": "../d/a",
        "folder": "d",
        "chain": "d/up",
    }
    assert found.keys() == {"d/a", "d/up", "folder", "chain"}
    assert found["chain"].size_bytes == 0


def test_a_snapshot_of_links_to_blobs_is_committed_as_files(tmp_path: Path) -> None:
    blob = write(tmp_path / "blobs" / "abc", b"weights")
    snapshot = tmp_path / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "model.bin").symlink_to("../../blobs/abc")
    (snapshot / "absolute.bin").symlink_to(blob)
    (snapshot / "alias.bin").symlink_to("model.bin")

    found = {source.path: source for source in scan(snapshot)}

    assert found["model.bin"].kind is EntryKind.FILE
    assert found["model.bin"].size_bytes == 7
    assert found["model.bin"].absolute == str(blob)
    assert found["absolute.bin"].kind is EntryKind.FILE
    assert found["alias.bin"].kind is EntryKind.SYMLINK
    os.close(open_source(found["model.bin"]))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nowhere", "not there"),
        ("../outside", "not a file"),
        ("/usr", "not a file"),
        ("loop", "symbolic links"),
        ("d/../d", "steps back"),
        (b"\xff", "not there"),
    ],
)
def test_links_without_bytes_behind_them_are_refused(
    tmp_path: Path, target: str | bytes, reason: str
) -> None:
    (tmp_path / "outside").mkdir()
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "loop").symlink_to(os.fsdecode(target))
    with pytest.raises(SourceUnreadableError, match=reason) as caught:
        scan(tree)
    assert caught.value.path.endswith("loop")


def test_fifos_and_sockets_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceUnreadableError, match="FIFO"):
        scan(tmp_path)
    with pytest.raises(SourceUnreadableError, match="FIFO"):
        scan(tmp_path / "pipe")
    (tmp_path / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(SourceUnreadableError, match="socket"):
            scan(tmp_path)


def test_devices_are_refused() -> None:
    with pytest.raises(SourceUnreadableError, match="character device"):
        scan("/dev/null")


def test_hard_links_are_separate_files(tmp_path: Path) -> None:
    write(tmp_path / "a", b"same")
    os.link(tmp_path / "a", tmp_path / "b")
    assert [(s.path, s.size_bytes) for s in scan(tmp_path)] == [("a", 4), ("b", 4)]


def test_names_are_kept_byte_for_byte(tmp_path: Path) -> None:
    composed, decomposed = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    for name in [composed, decomposed, "Case", "case"]:
        write(tmp_path / name)
    assert set(paths(scan(tmp_path))) == {composed, decomposed, "Case", "case"}


def test_a_name_that_is_not_unicode_is_refused_with_a_printable_message(tmp_path: Path) -> None:
    write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff")))
    with pytest.raises(SourceUnreadableError, match="not valid Unicode") as caught:
        scan(tmp_path)
    assert "bad" in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize("name", ["missing", "file/below", "nul\0", "bad\udcff"])
def test_what_is_not_there_is_not_found(tmp_path: Path, name: str) -> None:
    write(tmp_path / "file")
    with pytest.raises(SourceNotFoundError) as caught:
        scan(tmp_path / name)
    str(caught.value).encode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_refused_at_once(tmp_path: Path) -> None:
    secret = write(tmp_path / "tree" / "secret")
    secret.chmod(0)
    with pytest.raises(SourceUnreadableError, match="permission denied"):
        scan(tmp_path / "tree")
    (tmp_path / "tree").chmod(0)
    with pytest.raises(SourceUnreadableError, match="permission denied"):
        scan(tmp_path / "tree")
    (tmp_path / "tree").chmod(0o755)


def test_a_path_with_a_name_too_long_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadableError, match="too long"):
        scan(tmp_path / ("x" * 300))


def test_an_unchanged_file_opens_and_checks(tmp_path: Path) -> None:
    [source] = scan(write(tmp_path / "a", b"data"))
    descriptor = open_source(source)
    assert os.read(descriptor, 10) == b"data"
    os.close(descriptor)
    check_unchanged(source)


def grow(file: Path) -> None:
    file.write_bytes(b"longer")


def rewrite(file: Path) -> None:
    status = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"DATA")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def replace(file: Path) -> None:
    write(file.with_name("new"), b"data").rename(file)


def remove(file: Path) -> None:
    file.unlink()


def link(file: Path) -> None:
    file.rename(file.with_name("moved"))
    file.symlink_to("moved")


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("change", [grow, rewrite, replace, remove, link, pipe])
def test_a_file_that_changed_since_the_scan_is_noticed(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    file = write(tmp_path / "a", b"data")
    [source] = scan(file)
    change(file)
    with pytest.raises(SourceChangedError):
        check_unchanged(source)
    with pytest.raises(SourceChangedError):
        open_source(source)


def test_a_change_of_permissions_or_links_alone_is_noticed(tmp_path: Path) -> None:
    [source] = scan(write(tmp_path / "a", b"data"))
    # Made by hand: clocks of file systems tick too slowly to tell two changes in a row apart.
    earlier = source.identity._replace(ctime_ns=source.identity.ctime_ns - 1)
    with pytest.raises(SourceChangedError, match="permissions or links"):
        check_unchanged(dataclasses.replace(source, identity=earlier))


def test_a_link_that_was_turned_elsewhere_is_noticed(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / name)
    (tmp_path / "link").symlink_to("a")
    [source] = [source for source in scan(tmp_path) if source.path == "link"]
    check_unchanged(source)
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("b")
    with pytest.raises(SourceChangedError):
        check_unchanged(source)
