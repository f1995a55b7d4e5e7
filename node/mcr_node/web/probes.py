"""`/healthz`, `/readyz` and `/metrics` over plain HTTP, for supervisors and Prometheus."""

from typing import Protocol

from aiohttp import web

from mcr.v1 import admin_pb2 as admin
from mcr_node.telemetry import Telemetry

# Probes have no bodies; whoever sends one is at the wrong door.
REQUEST_BYTES_MAX = 64 * 1024
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Status(Protocol):
    """What the probes ask of a node; `services.admin.AdminService` is one."""

    @property
    def ready(self) -> bool:
        """Whether clients should come here."""

    async def get_store_status(self, request: admin.GetStoreStatusRequest) -> admin.GetStoreStatusResponse:
        """Return totals of the store."""


class Probes:
    """The HTTP server of a node."""

    def __init__(self, status: Status, telemetry: Telemetry) -> None:
        self._status = status
        self._telemetry = telemetry
        app = web.Application(client_max_size=REQUEST_BYTES_MAX)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)

    async def listen(self, host: str, port: int) -> int:
        """Bind, serve, and return the port, chosen by the system where 0 was asked for.

        Raises:
            OSError: the address is in use or not of this machine.
        """
        await self._runner.setup()
        await web.TCPSite(self._runner, host.strip("[]"), port).start()
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Stop serving."""
        await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        # Answered from the event loop: when that hangs, the answer stays away, which says it.
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        if self._status.ready:
            return web.Response(text="ready\n")
        return web.Response(status=503, text="not ready\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        status = await self._status.get_store_status(admin.GetStoreStatusRequest())
        body = self._telemetry.render(status, ready=self._status.ready)
        return web.Response(body=body, headers={"Content-Type": _METRICS_TYPE})
