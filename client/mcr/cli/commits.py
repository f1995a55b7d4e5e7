"""Commands about versions: commit, log, show."""

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from mcr.cli import memory, settings
from mcr.cli.forms import (
    commit_object,
    commit_summary,
    count,
    file_object,
    lineage_object,
    signature_object,
    size,
    version_object,
    version_text,
)
from mcr.cli.options import (
    BRANCH,
    REFERENCE,
    WITHIN,
    ModelName,
    command,
    split_reference,
    with_session,
    within,
)
from mcr.cli.session import Session
from mcr.cli.values import Tree, parameters_from, parse_metrics, parse_parameter_file
from mcr.durability import parse_durability
from mcr.model import PARAMETERS_BYTES_MAX, Version

if TYPE_CHECKING:
    from mcr.client import Model

NO_BRANCH = "none"
# A base model may have thousands; `mcr show` is about the version itself.
DERIVED_SHOWN_MAX = 20


class _CommitOptions(TypedDict):
    message: str
    branch: str
    expect: str | None
    pairs: tuple[str, ...]
    params: Path | None
    metrics: tuple[str, ...]
    allow_non_finite: bool
    durability: str | None
    request_id: str | None
    parent: str | None
    base: str | None
    exclude: tuple[str, ...]
    reread: bool


@command(
    "commit",
    examples="""
    mcr commit vision/resnet50 ckpt/ -m "epoch 3" -p lr=1e-4 -p optimizer.name=adamw --metric loss=0.31
    mcr commit vision/resnet50 model.safetensors -m "tuned" -b experiment --parent v11
    mcr commit vision/resnet50 ckpt/ -m "epoch 4" --params config.yaml --expect v12
    mcr commit vision/resnet50 ckpt/ -m "release" --durability cluster    # held in two sites when it returns
    mcr commit vision/birds ckpt/ -m "fine-tuned" --base vision/resnet50@v12
    """,
)
@click.argument("model", type=ModelName())
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--message", "-m", required=True, metavar="TEXT", help="What this version is.")
@click.option(
    "--branch",
    "-b",
    default="main",
    show_default=True,
    metavar="NAME",
    type=BRANCH,
    help="Branch to put it on; made when it is new.",
)
@click.option(
    "--expect",
    metavar="VERSION",
    type=WITHIN,
    help="Commit only if the branch is at VERSION (v11), or with 'none' only if there is no such branch yet.",
)
@click.option(
    "-p",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Parameter to record. Numbers, true, false, null keep their type ('\"5\"' is text); dots nest.",
)
@click.option(
    "--params",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Parameters from .json or .yaml; -p goes before.",
)
@click.option("--metric", "metrics", multiple=True, metavar="KEY=VALUE", help="Metric to report with it.")
@click.option("--allow-non-finite", is_flag=True, help="Accept nan and inf as metrics.")
@click.option(
    "--durability",
    metavar="site|cluster|N",
    help="Copies to wait for: two, in two sites, or N.  [default: site]",
)
@click.option(
    "--request-id", metavar="ID", help="Name of this request; repeated, it returns the version it made."
)
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave out what fits; may be repeated.")
@click.option(
    "--parent", metavar="REF", type=WITHIN, help="Version it descends from.  [default: head of the branch]"
)
@click.option(
    "--base",
    metavar="MODEL@REF",
    type=REFERENCE,
    help="Version of another model, or of this one, that it was derived from; kept in its record.",
)
@click.option("--reread", is_flag=True, help="Read large files also when nobody touched them since.")
@with_session
def commit(session: Session, model: str, path: Path, **given: Unpack[_CommitOptions]) -> None:
    """Make the next version of a model.

    Its content is the file or folder PATH. Prints the reference of the new version. Interrupted, the same
    command goes on where it stopped; only what the store does not have yet is stored.
    """
    memory.keep_freed()
    allow_non_finite = given["allow_non_finite"]
    parameters = parameters_from(given["pairs"], read_document(given["params"]))
    metrics = parse_metrics(given["metrics"], allow_non_finite=allow_non_finite, argument="--metric")
    durability = given["durability"]
    parse_durability(durability, "--durability")
    expect, parent = given["expect"], given["parent"]
    if expect is not None and expect != NO_BRANCH:
        expect = within(model, expect)
    if parent is not None:
        parent = within(model, parent)
    with session.connect() as client, session.output.bar() as tick:
        result = client.model(model).commit(
            path,
            message=given["message"],
            branch=given["branch"],
            expect=expect,
            params=parameters,
            metrics=metrics,
            parent=parent,
            base=given["base"],
            request_id=given["request_id"],
            allow_non_finite=allow_non_finite,
            durability=durability,
            exclude=given["exclude"],
            reread=given["reread"],
            progress=lambda at: tick(at.phase, at.bytes_done, at.bytes_total),
        )
    session.output.data(commit_object(result), result.reference)
    session.output.talk(commit_summary(result))


def read_document(path: Path | None) -> Tree:
    """Read a file of parameters; none is empty.

    Raises:
        McrError: it cannot be read, is too long, or is neither JSON nor YAML.
    """
    if path is None:
        return {}
    # Four times what may be stored: JSON and YAML spell things out longer than the record does.
    data = settings.read_file(path, length_bytes_max=4 * PARAMETERS_BYTES_MAX)
    return parse_parameter_file(str(path), data)


@command(
    "show",
    examples="""
    mcr show vision/resnet50@v12
    mcr show vision/resnet50@channel:production --json | jq .parameters
    """,
)
@click.argument("reference", metavar="REF", type=REFERENCE)
@with_session
def show(session: Session, reference: str) -> None:
    """Show all about one version.

    Its record, metrics, refs and files, who signed it, what it was derived from and what from it, and what it
    takes in the store. Signatures are shown as they are kept; mcr verify verifies one.
    """
    name, what = split_reference(reference)
    with session.connect() as client:
        model = client.model(name)
        version = model.show(what)
        # By its number from here on: the name may move meanwhile.
        storage = model.storage(version.name)
        lineage = model.lineage(version.name, limit=DERIVED_SHOWN_MAX)
        signatures = model.signatures(version.name)
    files = version.files or ()
    tensor_count = sum(entry.tensor_count for entry in files)
    record = version_object(version) | lineage_object(lineage)
    record |= {
        "tensor_count": tensor_count,
        "signatures": [signature_object(each) for each in signatures],
        "files": [file_object(entry) for entry in files],
        "storage": {
            "chunk_count": storage.chunk_count,
            "chunk_count_unique": storage.chunk_count_unique,
            "bytes_total": storage.bytes_total,
            "bytes_unique": storage.bytes_unique,
        },
    }
    where = (
        f"{count(storage.chunk_count, 'chunk')}, {storage.chunk_count_unique} distinct "
        f"with {size(storage.bytes_unique)}"
    )
    session.output.data(
        record,
        version_text(
            version, storage=where, tensor_count=tensor_count, lineage=lineage, signatures=signatures
        ),
    )


def find_version(model: "Model", what: str) -> Version:
    """Resolve a reference without reading the version's files.

    Raises:
        ModelNotFoundError, ReferenceNotFoundError, AmbiguousReferenceError: it names no one version.
    """
    return model.log(ref=what, limit=1)[0]
