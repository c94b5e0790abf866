"""raftos: one small daemon per machine, and a replicated state you can trust.

    from raftos import Client

    with Client() as client:
        client.kv.put("greeting", "hello")

The daemon imports this package too, so the clients are loaded only where they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raftos.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'raftos' has no attribute {name!r}")
    import raftos.client

    return getattr(raftos.client, name)
