"""Who may speak to this listener.

Three checks, in this order, before anything of a request is looked at:

1. **Host** names this listener (a page that rebinds its own name to 127.0.0.1 does not). Without a port it
   means port 80, which clients leave out.
2. **Origin**, when a browser sends one, is this listener's own.
3. **Authorization** carries the cluster's secret, compared in constant time. Health checks need none.
"""

from __future__ import annotations

import hmac

from raftos.api.connection import Request
from raftos.errors import Denied, Unauthorized

LEFT_OUT_PORT = 80
"""The port of `http://` addresses that name none."""


class Gate:
    """`host` and `port` are what the API listens on; `secret` is the cluster's, 32 bytes."""

    def __init__(self, secret: bytes, host: str, port: int) -> None:
        names = {"127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host}
        ports = {f":{port}", ""} if port == LEFT_OUT_PORT else {f":{port}"}
        self._hosts = {f"{name}{port}".encode() for name in names for port in ports}
        self._origins = {b"http://" + host for host in self._hosts}
        self._credential = b"Bearer " + secret.hex().encode()

    def admit(self, request: Request, *, needs_secret: bool) -> None:
        """Raises Denied or Unauthorized."""
        headers = request.headers
        if headers.get(b"host", b"").lower() not in self._hosts:
            raise Denied("the Host header does not name this member's API; use its endpoint as the address")
        if b"origin" in headers and headers[b"origin"].lower() not in self._origins:
            raise Denied("pages of another origin may not use this API")
        if needs_secret and not hmac.compare_digest(headers.get(b"authorization", b""), self._credential):
            raise Unauthorized("send the cluster's secret: `Authorization: Bearer $(raftos token show)`")
