"""The listening socket of the API and the connections it accepted.

The socket is bound before anything else of a member starts, so that a port in use is noticed before a
byte is written; it serves when the member does.
"""

from __future__ import annotations

import asyncio
import socket

from raftos.api.app import App
from raftos.api.connection import Connection
from raftos.config import split_address
from raftos.errors import StartupError

BACKLOG = 1_024
GRACE_S = 1.0


def listen(address: str) -> socket.socket:
    """A listening socket for `host:port`. Raises StartupError with one sentence."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StartupError(
            f"cannot listen on {address} for the API: {error.strerror}; "
            "choose another api_address or free the port"
        ) from error
    listener.setblocking(False)
    return listener


class Server:
    """Serves an app on a listening socket, until it is closed."""

    def __init__(self, app: App, listener: socket.socket) -> None:
        self._app = app
        self._listener = listener
        self._connections: set[Connection] = set()
        self._server: asyncio.Server

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._app.answer, self._connections), sock=self._listener
        )

    async def close(self) -> None:
        """Accept no more, let requests at hand end within a second, then close every connection."""
        self._server.close()
        self._app.streams.close()
        open_connections = list(self._connections)
        if open_connections:
            await asyncio.wait(
                [asyncio.ensure_future(connection.finish()) for connection in open_connections],
                timeout=GRACE_S,
            )
        for connection in list(self._connections):
            connection.abort()
