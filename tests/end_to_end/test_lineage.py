"""What a model was derived from, on a store and on a node, at the terminal and in Python."""

import json
from pathlib import Path

import pytest

import mcr
from mcr.errors import ReferenceNotFoundError
from mcr.testing import LocalCluster
from tests.support.served import mcr_command

pytestmark = pytest.mark.slow


def check(cluster: str, source: Path) -> None:
    with mcr.connect(cluster) as client:
        foundation, tuned = client.model("llm/base"), client.model("llm/tuned")
        source.write_text("weights")
        base = foundation.commit(source, message="foundation")
        foundation.create_tag("release", "v1")
        found = tuned.commit(source, message="tuned", base="llm/base@release")
        assert found.base is not None
        assert (found.base.reference, found.base.id) == (base.reference, base.id)
        tuned.commit(source, message="again", base="v1", branch="side")
        with pytest.raises(ReferenceNotFoundError):
            tuned.commit(source, message="no", base="llm/base@v2")
        assert [each.reference for each in tuned.log()] == ["llm/tuned@v2", "llm/tuned@v1"]
        lineage = tuned.lineage("v1")
        assert lineage.base is not None
        assert lineage.base.reference == "llm/base@v1"
        assert [each.reference for each in lineage.derived] == ["llm/tuned@v2"]
        tuned.commit(source, message="third", base="llm/base")
        some = foundation.lineage(limit=1)
        assert ([each.reference for each in some.derived], some.has_more) == (["llm/tuned@v1"], True)
        foundation.commit(source, message="newer")
        foundation.delete_tag("release")
        foundation.delete(["v1"])
    done = mcr_command("show", "llm/tuned@v1", "--json", cluster=cluster)
    shown = json.loads(done.stdout)
    assert shown["base"]["reference"] == "llm/base@v1"
    assert shown["base"]["deleted_at"] is not None
    assert [each["reference"] for each in shown["derived"]] == ["llm/tuned@v2"]
    assert (
        "base     llm/base@v1 [in the trash]" in mcr_command("show", "llm/tuned@v1", cluster=cluster).stdout
    )
    rows = [
        json.loads(line)
        for line in mcr_command("log", "llm/tuned", "--json", cluster=cluster).stdout.splitlines()
    ]
    assert [row["base"]["id"] for row in rows] == [base.id, found.id, base.id]
    refused = mcr_command(
        "commit", "llm/tuned", str(source), "-m", "x", "--base", "llm/base@v1", cluster=cluster
    )
    assert refused.returncode == 3, refused.stderr


def test_lineage_on_a_store(tmp_path: Path) -> None:
    mcr.init(tmp_path / "store")
    check(str(tmp_path / "store"), tmp_path / "weights")


def test_lineage_on_a_node(tmp_path: Path) -> None:
    with LocalCluster(nodes=1) as cluster:
        check(cluster.addresses, tmp_path / "weights")
