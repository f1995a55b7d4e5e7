"""The commands about signatures: sign, verify."""

from pathlib import Path

import click

from mcr.cli.forms import moment, signature_object
from mcr.cli.options import REFERENCE, command, split_reference, with_session
from mcr.cli.output import JsonObject, one_line
from mcr.cli.session import Session
from mcr.signatures import Signature


@command(
    "sign",
    examples="""
    openssl genpkey -algorithm ed25519 -out signer.pem           # make a key, once
    openssl pkey -in signer.pem -pubout -out signer.pub.pem      # what others verify with
    mcr sign vision/resnet50@v12 --key signer.pem
    """,
)
@click.argument("reference", metavar="REF", type=REFERENCE)
@click.option(
    "--key",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Private Ed25519 key, PEM (PKCS#8). It stays here.",
)
@with_session
def sign(session: Session, reference: str, key: Path) -> None:
    """Sign a version.

    Signed is the id of its record, and so its parameters, its history and every byte of its files. The
    signature is kept beside the version. To sign again with the same key changes nothing.
    """
    name, what = split_reference(reference)
    with session.connect() as client:
        signature = client.model(name).sign(what, key)
    session.output.data(_record(signature), signature.reference)
    session.output.talk(f"signed by key {signature.public_key}")


@command(
    "verify",
    examples="""
    mcr verify vision/resnet50@channel:production --key signer.pub.pem
    mcr verify vision/resnet50@v12 --key signer.pub.pem && mcr checkout --verify vision/resnet50@v12 out/
    """,
)
@click.argument("reference", metavar="REF", type=REFERENCE)
@click.option(
    "--key",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Public Ed25519 key, PEM (SubjectPublicKeyInfo).",
)
@with_session
def verify(session: Session, reference: str, key: Path) -> None:
    """Verify that a version was signed by a key.

    Computed here, of the version's record: the node that answers is not believed. Prints the reference of the
    version that REF named. Exit status 13 when the key did not sign it, or the signature does not verify.
    That files hold the bytes of the record is checked by checkout --verify.
    """
    name, what = split_reference(reference)
    with session.connect() as client:
        signature = client.model(name).verify(what, key)
    session.output.data(_record(signature), signature.reference)
    session.output.talk(
        f"signed by key {signature.public_key}, handed in by {one_line(signature.principal)} "
        f"at {moment(signature.at_ms)}"
    )


def _record(signature: Signature) -> JsonObject:
    return {
        "reference": signature.reference,
        "model": signature.model,
        "version": f"v{signature.number}",
        "number": signature.number,
        "id": signature.version_id,
        **signature_object(signature),
    }
