"""The command line of raftos: the root command, and the one place where errors become exit codes.

    0  ok                       3  not found                     5  no quorum, unreachable, outcome unknown
    1  failed                   4  conflict (version, exists)    6  denied
    2  bad usage or input     130  interrupted

An expected error is one sentence on stderr and a hint at the next command (one JSON object with
`-o json`), never a traceback. An unexpected one is a bug: it prints its traceback and says where to
report it.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NoReturn

import click

from raftos.errors import ErrorBody, InvalidInput, RaftosError
from raftos_cli.base import Group, Invocation
from raftos_cli.hints import hint_for, hint_for_usage
from raftos_cli.output import report_error

INTERRUPTED = 130
COMPLETE = "_RAFTOS_COMPLETE"
"""The variable with which a shell asks what could be typed next; see completing.py."""
REPORT_TO = "the project's issue tracker"
FULL = {errno.ENOSPC, errno.EDQUOT}
"""Of a file system, or of what this user may keep on it."""

FILES = {
    "dev": "raftos_cli.dev",
    "status": "raftos_cli.status",
    "node": "raftos_cli.node",
    "start": "raftos_cli.start",
    "leader": "raftos_cli.leader",
    "snapshot": "raftos_cli.snapshot",
    "recover": "raftos_cli.recover",
    "kv": "raftos_cli.kv",
    "lock": "raftos_cli.lock",
    "chat": "raftos_cli.chat",
    "events": "raftos_cli.events",
    "quota": "raftos_cli.quota",
    "context": "raftos_cli.context",
    "token": "raftos_cli.token",
    "shell": "raftos_cli.shell",
    "completion": "raftos_cli.completion",
    "version": "raftos_cli.version",
}


class Root(Group):
    """The root command; `main` always ends the process with one of the exit codes above."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **_: Any) -> NoReturn:  # type: ignore[override]
        if instruction := os.environ.get(COMPLETE):
            from raftos_cli.completing import answer

            sys.exit(answer(self, instruction))
        sys.exit(self.run(list(sys.argv[1:] if args is None else args)))

    def run(self, arguments: list[str], shell: Invocation | None = None) -> int:
        """Run one command line, perhaps of a shell, and return its exit code."""
        run = Invocation(shell)
        as_json = wants_json(arguments, otherwise=run.format == "json")
        try:
            code = super().main(arguments, prog_name="raftos", standalone_mode=False, obj=run)
            sys.stdout.flush()
        except click.ClickException as error:
            return _usage(error, as_json=as_json)
        except RaftosError as error:
            report_error(error.body(), as_json=as_json, hint=hint_for(error, run.command))
            return error.exit_code
        except (KeyboardInterrupt, click.Abort):
            return INTERRUPTED
        except BrokenPipeError:
            return _reader_left()
        except OSError as error:
            return _machine(error, as_json=as_json)
        except Exception as error:  # noqa: BLE001 - the last line of defence: a bug, shown whole
            return _bug(error, as_json=as_json)
        return code if isinstance(code, int) else 0

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            return _reader_left()  # Otherwise click would end the process, with 1.


def wants_json(arguments: Sequence[str], *, otherwise: bool = False) -> bool:
    """Whether `-o json` stands on the command line, even where the rest of it cannot be parsed."""
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    wanted = otherwise
    for option, value in pairwise(["", *before]):
        form = value if option in {"-o", "--output"} else value.removeprefix("-o").removeprefix("--output=")
        if option in {"-o", "--output"} or form != value:
            wanted = form == "json"
    return wanted


def _usage(error: click.ClickException, *, as_json: bool) -> int:
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None and not as_json:
        click.echo(f"{context.get_usage()}\n", err=True)
    body = ErrorBody("invalid", error.format_message())
    report_error(body, as_json=as_json, hint=hint_for_usage(context.command_path if context else "raftos"))
    return InvalidInput.exit_code


def _reader_left() -> int:
    """The program that read our output has gone (`raftos kv ls | head`): end quietly."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _machine(error: OSError, *, as_json: bool) -> int:
    """This machine refuses something, such as to write to a full disk: nobody's bug."""
    where = f": {error.filename}" if error.filename else ""
    remedy = "; free some space, or choose another place" if error.errno in FULL else ""
    report_error(ErrorBody("failed", f"{error.strerror or error}{where}{remedy}"), as_json=as_json)
    return 1


def _bug(error: Exception, *, as_json: bool) -> int:
    message = f"unexpected {type(error).__name__}: {error}; this is a bug, please report it to {REPORT_TO}"
    if not as_json:
        import traceback

        traceback.print_exception(error)
    report_error(ErrorBody("fault", message), as_json=as_json)
    return 1


root = Root(
    "raftos",
    files=FILES,
    help="One small daemon per machine: a Raft-replicated cluster you can trust.",
    examples="""
        raftos dev start --detach       three members on this machine
        raftos kv put greeting hello    a write, durable on a majority
        raftos status                   who leads, who is alive
        raftos COMMAND --help           everything about one command
    """,
)


def main() -> NoReturn:
    root.main()
