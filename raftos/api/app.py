"""The API of one member: a table of routes, and the order in which a request is judged.

    gate (Host, Origin, secret) -> route (404) -> method (405) -> handler

Whatever goes wrong becomes the one error shape; every answer carries cluster time, from which clients
mint their request ids.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog

from raftos.api import domains, ui
from raftos.api.answers import Answer, MethodNotAllowed, error_answer
from raftos.api.auth import Gate
from raftos.api.batch import BatchRoute
from raftos.api.beacons import BeaconRoutes
from raftos.api.cluster import ClusterRoutes
from raftos.api.connection import Request
from raftos.api.domains import Handler
from raftos.api.health import Readyz, livez
from raftos.api.metrics import Metrics
from raftos.api.openapi import OpenApi
from raftos.api.snapshots import SnapshotRoute
from raftos.api.streams import Streams
from raftos.errors import Fault, NotFound, RaftosError
from raftos.member import Member

OPEN_ROUTES = frozenset({"/livez", "/readyz", "/openapi.json", *ui.FILES})
"""Health checks carry no secret, and the API's description tells none."""

_log = structlog.get_logger(__name__)


def routes_of(member: Member, metrics: Metrics, streams: Streams) -> dict[str, dict[str, Handler]]:
    """Path -> method -> handler."""
    cluster = ClusterRoutes(member)
    beacons = BeaconRoutes(member)
    routes: dict[str, dict[str, Handler]] = {
        "/livez": {"GET": livez},
        "/readyz": {"GET": Readyz(member)},
        "/metrics": {"GET": metrics},
        "/v1/status": {"GET": cluster.status},
        "/v1/leader": {"GET": cluster.leader},
        "/v1/leader/transfer": {"POST": cluster.transfer},
        "/v1/cluster/members": {"GET": cluster.members},
        "/v1/cluster/join": {"POST": cluster.join},
        "/v1/cluster/promote": {"POST": cluster.promote},
        "/v1/cluster/remove": {"POST": cluster.remove},
        "/v1/snapshot": {"GET": SnapshotRoute(member)},
        "/v1/batch": {"POST": BatchRoute(member)},
        "/v1/events": {"GET": streams},
        "/v1/beacons": {"GET": beacons.list, "POST": beacons.announce},
        **domains.routes(member),
        **ui.routes(),
    }
    routes["/openapi.json"] = {"GET": OpenApi(routes, OPEN_ROUTES, member.version)}
    return routes


class App:
    """Answers requests; `answer` never raises."""

    def __init__(self, member: Member, gate: Gate) -> None:
        self._member = member
        self._gate = gate
        self.streams = Streams(member)
        self._metrics = Metrics(member, self.streams)
        self.routes: Mapping[str, Mapping[str, Handler]] = routes_of(member, self._metrics, self.streams)

    async def answer(self, request: Request) -> Answer:
        started = time.perf_counter()
        try:
            handler = self._route(request)
            answer = await handler(request)
        except RaftosError as error:
            answer = self._refusal(request, error)
        except Exception as error:  # noqa: BLE001 - a bug of ours must not take the connection with it
            _log.exception("a request ended in a bug", path=request.path)
            answer = error_answer(
                Fault(f"a bug in raftos: {type(error).__name__}; the member's log says more")
            )
        answer.headers += f"Raftos-Time: {self._member.consensus.cluster_time_ms()}\r\n"
        route = request.path if request.path in self.routes else "unknown"
        self._metrics.observe(route, answer.status, time.perf_counter() - started)
        return answer

    def _route(self, request: Request) -> Handler:
        self._gate.admit(request, needs_secret=request.path not in OPEN_ROUTES)
        methods = self.routes.get(request.path)
        if methods is None:
            raise NotFound(f"there is no {request.path}; the API is described in docs/api.md")
        handler = methods.get(request.method)
        if handler is None:
            raise MethodNotAllowed(f"{request.path} takes {' or '.join(methods)}, not {request.method}")
        return handler

    def _refusal(self, request: Request, error: RaftosError) -> Answer:
        answer = error_answer(error, leader=self._member.leader_name() if error.retryable else None)
        if isinstance(error, MethodNotAllowed):
            answer.headers = f"Allow: {', '.join(self.routes[request.path])}\r\n"
        elif error.http_status == 401:
            answer.headers = 'WWW-Authenticate: Bearer realm="raftos"\r\n'
        return answer
