"""The command that runs a node."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mcr.cli.options import command, command_group, with_session
from mcr.cli.output import JsonValue
from mcr.cli.session import Session

if TYPE_CHECKING:
    from mcr._embedded import NodeInfo


@command_group("node")
def node() -> None:
    """Run a node of a cluster."""


@command(
    "start",
    examples="""
    mcr node start --name ams-1 --data /srv/mcr --bootstrap      # the first time
    mcr node start --name ams-2 --data /srv/mcr --join ams-1:7101 --listen ams-2:7101
    mcr node start --name ams-1 --data /srv/mcr                  # from then on
    mcr node start --name ams-1 --data /srv/mcr --listen 0.0.0.0:7101 --http 127.0.0.1:7180
    """,
)
@click.option("--name", metavar="N", help="Name of the node, unique in the cluster, for good.")
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Its folder.")
@click.option("--listen", metavar="HOST:PORT", help="For clients; port 0 = any.  [default: 127.0.0.1:7101]")
@click.option(
    "--http", metavar="HOST:PORT", help="For /healthz, /readyz and /metrics; not served by default."
)
@click.option("--site", metavar="S", help="The site it stands at, for good.")
@click.option(
    "--capacity", type=int, metavar="BYTES", help="What its chunk files may take.  [default: the disk]"
)
@click.option("--bootstrap", is_flag=True, help="Make a new cluster of this one node; once.")
@click.option("--join", metavar="HOST:PORT[,...]", help="Join the cluster of these nodes; once.")
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="TOML with these options as keys."
)
@with_session
def start(
    session: Session,
    /,
    bootstrap: bool,
    join: str | None,
    config: Path | None,
    **flags: str | int | Path | None,
) -> None:
    """Run a node until a signal ends it (SIGTERM, SIGINT; a second one ends it at once).

    DIR/node.json says where it listens while it runs. DIR is new, that of this node, or an embedded store,
    which --bootstrap turns into a cluster of one node.
    """
    # Imported late: it brings the node's code along.
    from mcr import _embedded

    def told(info: "NodeInfo") -> None:
        record: dict[str, JsonValue] = {
            "name": info.name,
            "listen": info.listen,
            "http": info.http,
            "pid": info.pid,
        }
        session.output.data(record, "")
        http = f", HTTP on {info.http}" if info.http else ""
        session.output.talk(f"node {info.name} listens on {info.listen}{http}")
        session.output.flush()

    _embedded.run_node(flags, bootstrap=bootstrap, join=join, config=config, told=told)


node.add_command(start)
