"""`raftos token`: the credential of the current context, for other programs."""

from __future__ import annotations

from raftos_cli.base import Group, Invocation, pass_invocation

token = Group(
    "token",
    help="The credential that opens the cluster's API.",
    examples="""
        curl -H "Authorization: Bearer $(raftos token show)" URL/v1/status
    """,
)


@token.command(
    "show",
    examples="""
        raftos token show
        raftos token show --context dev
    """,
)
@pass_invocation
def show(run: Invocation) -> None:
    """Print the bearer token of the current context. Whoever has it can do everything."""
    from raftos.client import contexts
    from raftos.errors import NotFound

    secret = contexts.resolve(run.endpoints, run.context).token
    if not secret:
        raise NotFound("no context is current, so there is no token; `raftos dev start` makes one")
    run.output.data({"token": secret}, lambda: secret)
