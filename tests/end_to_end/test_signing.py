"""Signatures through a node: signed at one, verified and demanded at another."""

from pathlib import Path

import pytest

import mcr
from mcr.errors import SignatureError, SignersMissingError
from mcr.testing import LocalCluster
from tests.unit.client.cli.test_signing import write_keys

pytestmark = pytest.mark.slow


def test_what_one_node_took_the_others_show_and_hold_channels_to(tmp_path: Path) -> None:
    key = write_keys(tmp_path, "ci", 1)
    write_keys(tmp_path, "lead", 2)
    (tmp_path / "weights").write_bytes(b"weights")
    with LocalCluster(nodes=3) as cluster:
        one, two, three = cluster.addresses.split(",")
        with mcr.connect(one) as client:
            model = client.model("vision/net")
            model.commit(tmp_path / "weights", message="one")
            model.channel("production").set("v1")
            model.commit(tmp_path / "weights", message="two")
            model.channel("production").protect({"signers": [key]})
        with mcr.connect(two) as client:
            channel = client.model("vision/net").channel("production")
            with pytest.raises(SignersMissingError, match=key):
                channel.set("v2")
            signed = client.model("vision/net").sign("v2", tmp_path / "ci.pem")
            assert channel.set("v2").number == 2
        with mcr.connect(three) as client:
            model = client.model("vision/net")
            assert model.verify("channel:production", tmp_path / "ci.pub.pem") == signed
            assert model.signatures("v2") == [signed]
            with pytest.raises(SignatureError):
                model.verify("v2", tmp_path / "lead.pub.pem")
            assert model.channel("production").rollback().number == 1
