"""The SDK: `AsyncClient`, and `Client` for code without an event loop.

The contexts can be read without loading either (`raftos.client.contexts`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raftos.client.aio import AsyncClient
    from raftos.client.sync import Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    match name:
        case "AsyncClient":
            from raftos.client.aio import AsyncClient

            return AsyncClient
        case "Client":
            from raftos.client.sync import Client

            return Client
    raise AttributeError(f"module 'raftos.client' has no attribute {name!r}")
