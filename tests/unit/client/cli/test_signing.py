"""`mcr sign`, `mcr verify`, and channels that demand signers, on an embedded store."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

import mcr
from mcr.cli.main import main
from mcr.cli.refs import parse_rules
from mcr.errors import InvalidArgumentError, InvalidKeyError, SignersMissingError

MODEL = "vision/net"


def write_keys(folder: Path, name: str, seed: int) -> str:
    """Write `name.pem` and `name.pub.pem`, and return the public key in hexadecimal."""
    private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    public = private.public_key()
    (folder / f"{name}.pem").write_bytes(
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / f"{name}.pub.pem").write_bytes(
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return public.public_bytes_raw().hex()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store in `.mcr` with two versions, and the keys of two signers."""
    monkeypatch.chdir(tmp_path)
    mcr.init(".mcr")
    write_keys(tmp_path, "ci", 1)
    write_keys(tmp_path, "lead", 2)
    with mcr.connect(".mcr") as client:
        for number in (1, 2):
            (tmp_path / "weights").write_bytes(bytes([number]))
            client.model(MODEL).commit(tmp_path / "weights", message=f"epoch {number}")
        client.model(MODEL).channel("production").set("v1")
    return tmp_path


def test_a_version_that_was_signed_verifies_and_one_that_was_not_does_not(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sign", f"{MODEL}@v2", "--key", "ci.pem"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{MODEL}@v2\n"
    public_key = said.err.split()[-1]

    assert main(["verify", MODEL, "--key", "ci.pub.pem", "--json"]) == 0
    verified = json.loads(capsys.readouterr().out)
    assert verified["reference"] == f"{MODEL}@v2"
    assert verified["public_key"] == public_key
    with mcr.connect(".mcr") as client:
        assert verified["id"] == client.model(MODEL).show("v2").id
        (kept,) = client.model(MODEL).signatures("v2")
    assert (kept.public_key, kept.signature.hex()) == (public_key, verified["signature"])

    # Again: nothing changes, and it is answered with what is kept.
    assert main(["sign", f"{MODEL}@v2", "--key", "ci.pem", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == verified
    for reference, key in ((f"{MODEL}@v1", "ci"), (f"{MODEL}@v2", "lead")):
        assert main(["verify", reference, "--key", f"{key}.pub.pem", "--json"]) == 13
        refused = json.loads(capsys.readouterr().err)
        assert (refused["error"], refused["version"]) == ("signature", reference)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["sign", f"{MODEL}@v9", "--key", "ci.pem"], 3),
        (["verify", f"{MODEL}@v9", "--key", "ci.pub.pem"], 3),
        (["verify", "vision/none", "--key", "ci.pub.pem"], 3),
        (["sign", f"{MODEL}@v1", "--key", "ci.pub.pem"], 2),
        (["sign", f"{MODEL}@v1", "--key", "weights"], 2),
        (["sign", f"{MODEL}@v1", "--key", "none.pem"], 2),
        (["verify", f"{MODEL}@v1", "--key", "ci.pem"], 2),
        (["verify", f"{MODEL}@v1", "--key", "weights"], 2),
        (["sign", f"{MODEL}@v1"], 2),
        (["channel", MODEL, "production", "--protect", "signers=weights"], 2),
    ],
)
def test_what_cannot_be_done_has_its_status_and_a_hint(
    folder: Path, words: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json"]) == status
    assert json.loads(capsys.readouterr().err)["hint"]


def test_a_channel_moves_only_once_all_its_signers_have_signed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["channel", MODEL, "production"]
    assert main([*where, "--protect", "signers=ci.pub.pem, lead.pub.pem"]) == 0
    assert main(["sign", f"{MODEL}@v2", "--key", "ci.pem"]) == 0
    capsys.readouterr()

    assert main([*where, "--set", "v2", "--json"]) == 12
    refused = json.loads(capsys.readouterr().err)
    assert (refused["error"], refused["missing"]) == ("signers_missing", 1)
    assert write_keys(folder, "lead", 2) in refused["message"]
    assert f"mcr sign {MODEL}@v2 --key" in refused["hint"]
    with mcr.connect(".mcr") as client, pytest.raises(SignersMissingError):
        client.model(MODEL).channel("production").set("v2")

    assert main(["sign", f"{MODEL}@v2", "--key", "lead.pem"]) == 0
    assert main([*where, "--set", "v2"]) == 0
    assert main(["rollback", MODEL, "--channel", "production"]) == 0


def test_signatures_are_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sign", f"{MODEL}@v2", "--key", "ci.pem", "--json"]) == 0
    signed = json.loads(capsys.readouterr().out)

    assert main(["show", f"{MODEL}@v2", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["signatures"]
    assert main(["show", f"{MODEL}@v2"]) == 0
    text = capsys.readouterr().out
    assert main(["show", f"{MODEL}@v1", "--json"]) == 0

    assert shown == {name: signed[name] for name in shown}
    assert f"\nsigned   {signed['public_key']} by {signed['signed_by']}\n" in text
    assert json.loads(capsys.readouterr().out)["signatures"] == []


def test_signers_are_given_as_files_or_as_they_are_shown(folder: Path) -> None:
    key = write_keys(folder, "ci", 1)

    assert parse_rules([f"signers=ci.pub.pem,{'ab' * 32}"]) == {"signers": [key, "ab" * 32]}
    with pytest.raises(InvalidKeyError):
        parse_rules(["signers=none.pem"])
    with pytest.raises(InvalidArgumentError):
        parse_rules(["signers="])
