"""The common options of a command, as they were parsed so far."""

from typing import Any

import click

from mcr.cli.session import Common

META = "mcr.cli.common."
"""Where contexts keep them: all contexts of a run share what they keep."""


def common_of(context: click.Context) -> Common:
    """Return the common options as given so far."""

    def given(name: str) -> Any:  # noqa: ANN401 (what click parsed)
        return context.meta.get(META + name)

    return Common(
        cluster=given("cluster"),
        profile=given("profile"),
        stale=bool(given("stale")),
        json=bool(given("json")),
        quiet=bool(given("quiet")),
        timeout_s=given("timeout"),
        progress=given("progress"),
    )
