"""Commands about the files of versions: ls, checkout, cat, diff."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mcr.cli import memory
from mcr.cli.commits import find_version
from mcr.cli.differences import diff_object, diff_text
from mcr.cli.forms import count, file_object, files_table, model_object, moment, size, table
from mcr.cli.options import REFERENCE, command, split_reference, with_session, within
from mcr.cli.output import binary_stdout, one_line
from mcr.cli.session import Session
from mcr.errors import DestinationError, InvalidArgumentError
from mcr.model import MIB

if TYPE_CHECKING:
    from mcr.comparing import Diff

PAGE_MODELS = 1000
_COPY_BYTES = 1 * MIB
_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})?", re.ASCII)
_PLOT_ENDINGS = (".png", ".html")


@command(
    "ls",
    examples="""
    mcr ls                                     # models
    mcr ls vision/resnet50                     # files at the head of main
    mcr ls -l vision/resnet50@v12 tokenizer/
    """,
)
@click.argument("reference", metavar="[MODEL|REF]", type=REFERENCE, required=False)
@click.argument("path", required=False, default="")
@click.option("--long", "-l", is_flag=True, help="With sizes, formats and times.")
@with_session
def ls(session: Session, reference: str | None, path: str, long: bool) -> None:
    """List models, or the files of a version.

    Of a version: all, or those at and below PATH.
    """
    if reference is None:
        _list_models(session, long=long)
        return
    name, what = split_reference(reference)
    with session.connect() as client:
        entries = client.model(name).files(what, path)
    for entry in entries if session.output.json or not long else ():
        session.output.data(file_object(entry), one_line(entry.path))
    if long and not session.output.json:
        session.output.data({}, files_table(entries))


def _list_models(session: Session, *, long: bool) -> None:
    found, after = False, ""
    with session.connect() as client:
        while page := client.models(after=after, limit=PAGE_MODELS):
            rows = [
                (m.name, count(m.version_count, "version"), moment(m.updated_at_ms)) if long else (m.name,)
                for m in page
            ]
            for summary, line in zip(page, table(rows).splitlines(), strict=True):
                session.output.data(model_object(summary), line)
            found, after = True, page[-1].name
        if not found:
            session.output.talk(f"no models in {client.location} yet; make one with: mcr commit")


@command(
    "checkout",
    examples="""
    mcr checkout vision/resnet50@channel:production out/
    mcr checkout vision/resnet50@v12 out/ --include '*.safetensors' --include config.json
    mcr checkout vision/resnet50@v11 out/ --delete --verify
    mcr checkout vision/resnet50@v11 /srv/model/ --sync
    """,
)
@click.argument("reference", metavar="REF", type=REFERENCE)
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
@click.option("--include", multiple=True, metavar="GLOB", help="Only files that match; may be repeated.")
@click.option("--verify", is_flag=True, help="Read every file back and compare its digest.")
@click.option("--delete", is_flag=True, help="Remove files from DEST that the version does not have.")
@click.option("--sync", is_flag=True, help="End only when the disk holds every file.")
@with_session
def checkout(
    session: Session,
    reference: str,
    destination: Path,
    include: tuple[str, ...],
    verify: bool,
    delete: bool,
    sync: bool,
) -> None:
    """Write a version into a folder, bit-exact.

    Files in DEST that are right already are left alone, so the same command goes on where an interrupted one
    stopped. Prints the reference of the version that REF named.

    Where DEST holds files already, the disk holds each new file before it takes its place. Into an empty
    folder the command ends sooner, as copying with other tools does, and the system writes to the disk later;
    after a loss of power run it again, which finds files that are not whole. --sync and --verify wait there,
    too.
    """
    memory.keep_freed()
    name, what = split_reference(reference)
    with session.connect() as client, session.output.bar() as tick:
        model = client.model(name)
        version = find_version(model, what)
        result = model.checkout(
            version.name,
            destination,
            include=include,
            verify=verify,
            delete=delete,
            sync=sync,
            progress=lambda at: tick("checkout", at.bytes_done, at.bytes_total),
        )
    session.output.data(
        {
            "reference": version.reference,
            "version": version.name,
            "id": version.id,
            "destination": str(destination),
            "files_written": result.files_written,
            "files_unchanged": result.files_unchanged,
            "files_deleted": result.files_deleted,
            "bytes_written": result.bytes_written,
            "bytes_total": result.bytes_total,
            "extra_files": result.extra_files,
        },
        version.reference,
    )
    session.output.talk(
        f"{destination}: wrote {count(result.files_written, 'file')} ({size(result.bytes_written)}), "
        f"{result.files_unchanged} unchanged"
        + (f", {result.files_deleted} deleted" if result.files_deleted else "")
        + (", every one verified" if verify else "")
    )
    if result.extra_files:
        session.output.talk(
            f"{count(result.extra_files, 'file')} not of this version left in place; --delete removes such"
        )


@command(
    "cat",
    examples="""
    mcr cat vision/resnet50@v12 config.json
    mcr cat vision/resnet50@v12 model.safetensors --range 0-7 | xxd
    """,
)
@click.argument("reference", metavar="REF", type=REFERENCE)
@click.argument("path")
@click.option(
    "--range", "span", metavar="A-B", help="Only bytes A to B, both included, from 0; A- for the rest."
)
@with_session
def cat(session: Session, reference: str, path: str, span: str | None) -> None:
    """Write one file of a version to stdout.

    The bytes come as they are with --json too; only errors are JSON then.
    """
    memory.keep_freed()
    start, stop = parse_range(span)
    name, what = split_reference(reference)
    with session.connect() as client, client.model(name).open(what, path) as file:
        size_bytes = file.seek(0, 2)
        if span is not None and start >= size_bytes:
            raise InvalidArgumentError("--range", f"{span} begins after the file's {size_bytes} bytes")
        left = (size_bytes if stop is None else min(stop, size_bytes)) - start
        file.seek(start)
        sink = binary_stdout()
        while left > 0 and (data := file.read(min(left, _COPY_BYTES))):
            sink.write(data)
            left -= len(data)
        assert left == 0, "a file ended before its recorded size"
        sink.flush()


def parse_range(span: str | None) -> tuple[int, int | None]:
    """Return the first byte and the byte after the last of `A-B` or `A-`.

    Raises:
        InvalidArgumentError: another form, or B before A.
    """
    if span is None:
        return 0, None
    match = _RANGE.fullmatch(span)
    if match is None:
        raise InvalidArgumentError("--range", f"{span!r} is not of the form A-B or A-")
    start = int(match[1])
    if match[2] is None:
        return start, None
    last = int(match[2])
    if last < start:
        raise InvalidArgumentError("--range", f"{span!r} ends before it begins")
    return start, last + 1


@command(
    "diff",
    examples="""
    mcr diff vision/resnet50@v11 vision/resnet50@v12
    mcr diff vision/resnet50@v11 v12 --tensors
    mcr diff vision/resnet50@v11 v12 --plot change.html
    """,
)
@click.argument("before", metavar="REF", type=REFERENCE)
@click.argument("after", metavar="REF", type=REFERENCE)
@click.option("--tensors", is_flag=True, help="Compare the numbers of the tensors that differ.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the tensors' changes: .png or .html.",
)
@with_session
def diff(session: Session, before: str, after: str, tensors: bool, plot: Path | None) -> None:
    """Show what changed between two versions.

    Files, parameters, metrics and, with --tensors, the tensors in files that differ.
    """
    memory.keep_freed()
    if plot is not None and plot.suffix.lower() not in _PLOT_ENDINGS:
        raise InvalidArgumentError("--plot", f"{str(plot)!r} does not end in .png or .html")
    name, a = split_reference(before)
    b = within(name, after)
    with session.connect() as client, session.output.bar(unit=" files") as tick:
        found = client.model(name).diff(
            a,
            b,
            tensors=tensors or plot is not None,
            progress=lambda at: tick("comparing", at.files_done, at.files_total),
        )
    if plot is not None:
        _draw(plot, found)
        session.output.talk(f"drew {plot}")
    session.output.data(diff_object(found), diff_text(found))
    if not (found.files or found.parameters or found.metrics):
        session.output.talk(f"{found.a.reference} and {found.b.name} do not differ")


def _draw(path: Path, found: "Diff") -> None:
    # Imported late: only a plot needs it.
    from mcr.tensors.plot import render_html, render_png

    changes = [item.change for item in found.tensors or ()]
    title = f"{found.a.model}: {found.a.name} to {found.b.name}"
    if path.suffix.lower() == ".png":
        picture = render_png(changes, title)
    else:
        picture = render_html(changes, title).encode(errors="backslashreplace")
    try:
        path.write_bytes(picture)
    except OSError as error:
        raise DestinationError(str(path), error.strerror or str(error)) from error
