"""`raftos completion`: the script that makes a shell complete what is typed after `raftos`."""

from __future__ import annotations

import click

from raftos_cli.base import Command, Invocation, pass_invocation
from raftos_cli.completing import SHELLS, script


@click.command(
    "completion",
    cls=Command,
    examples="""
        eval "$(raftos completion bash)"     into ~/.bashrc
        eval "$(raftos completion zsh)"      into ~/.zshrc, after compinit
        raftos completion fish | source      into ~/.config/fish/config.fish
    """,
)
@click.argument("shell", type=click.Choice(SHELLS))
@pass_invocation
def completion(run: Invocation, shell: str) -> None:
    """Print what makes bash, zsh or fish complete raftos commands.

    Put the line below into the file that your shell reads at its start. Then Tab completes commands,
    options and the names the cluster knows, such as keys, nodes and contexts.
    """
    text = script(shell)
    run.output.data({"shell": shell, "script": text}, lambda: text.rstrip("\n"))
