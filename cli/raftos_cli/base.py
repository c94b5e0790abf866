"""What all commands share: four options, one help layout, one way to reach the cluster.

`--endpoint`, `--context`, `--timeout` and `-o` may stand before or after any subcommand; each is
remembered in the one `Invocation` of this run, the rightmost winning. Help has the same four parts
everywhere: what it does, arguments and options, the common options, examples.

This file is imported by every command, so it imports little: the client only
when a command talks to the cluster, rich only when a table is printed.
"""

from __future__ import annotations

import importlib
import math
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

import click

from raftos.errors import RaftosError
from raftos_cli.hints import hint_for
from raftos_cli.output import Output, report_error

if TYPE_CHECKING:
    from raftos.client import Client

DEFAULT_TIMEOUT_S = 10.0


class Invocation:
    """One run of the command line: the common options, and what follows from them.

    A run within a shell has the options that the shell was started with, until it is given its own.
    """

    def __init__(self, shell: Invocation | None = None) -> None:
        self.shell = shell
        self.given: ChainMap[str, Any] = shell.given.new_child() if shell else ChainMap()
        self.command = "raftos"

    @property
    def endpoints(self) -> tuple[str, ...]:
        # A context named here stands for its own endpoints, not for those the shell was given.
        here: Mapping[str, Any] = self.given.maps[0]
        return tuple((here if "context" in here else self.given).get("endpoints", ()))

    @property
    def context(self) -> str | None:
        return self.given.get("context")

    @property
    def chosen_timeout_s(self) -> float | None:
        return self.given.get("timeout_s")

    @property
    def timeout_s(self) -> float:
        return self.chosen_timeout_s or DEFAULT_TIMEOUT_S

    @property
    def format(self) -> str:
        return str(self.given.get("format", "table"))

    @property
    def output(self) -> Output:
        return Output(as_json=self.format == "json")

    def report(self, error: RaftosError) -> None:
        """The error on stderr, in the format that was asked for; for people, with what to do next."""
        report_error(error.body(), as_json=self.format == "json", hint=hint_for(error, self.command))

    @contextmanager
    def client(self, timeout_s: float | None = None) -> Iterator[Client]:
        """A client of the chosen endpoints and context. Raises InvalidInput, Unreachable."""
        from raftos.client import Client

        limit_s = timeout_s or self.timeout_s
        with Client(list(self.endpoints) or None, context=self.context, timeout_s=limit_s) as client:
            yield client


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)
stale_option = click.option("--stale", is_flag=True, help="Read one member's own state: quick, perhaps old.")


class Seconds(click.ParamType[float]):
    """A finite number of seconds above zero; with `or_none`, zero as well."""

    name = "seconds"

    def __init__(self, *, or_none: bool = False) -> None:
        self.or_none = or_none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not (0 < seconds < math.inf or (self.or_none and seconds == 0)):
            allowed = "a number of seconds" if self.or_none else "a number of seconds above zero"
            self.fail(f"{value!r} is not {allowed}; write it like 5 or 0.5", param, ctx)
        return seconds


class WholeNumber(click.ParamType[int]):
    """A whole number from `least` to `most`."""

    name = "number"

    def __init__(self, least: int, most: int | None = None) -> None:
        self.least = least
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
        if number < self.least or (self.most is not None and number > self.most):
            allowed = (
                f"of at least {self.least}" if self.most is None else f"from {self.least} to {self.most}"
            )
            self.fail(f"{text!r} is not a whole number {allowed}", param, ctx)
        return number


class Text(click.ParamType[str]):
    """An argument that is valid UTF-8, as keys and names have to be."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.fail("it is not valid UTF-8", param, ctx)
        return text


def context_names(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from raftos.client import contexts

    return [name for name in contexts.load().contexts if name.startswith(incomplete)]


def _remember(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def remember(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        if value not in (None, ()):
            ctx.ensure_object(Invocation).given[name] = value

    return remember


def common_options() -> list[click.Option]:
    return [
        click.Option(
            ["--endpoint"],
            multiple=True,
            metavar="URL",
            expose_value=False,
            callback=_remember("endpoints"),
            help="A member to ask (or RAFTOS_ENDPOINTS); repeatable.",
        ),
        click.Option(
            ["--context"],
            metavar="NAME",
            expose_value=False,
            callback=_remember("context"),
            shell_complete=context_names,
            help="A known cluster, instead of the current one.",
        ),
        click.Option(
            ["--timeout"],
            type=Seconds(),
            metavar="SECONDS",
            expose_value=False,
            callback=_remember("timeout_s"),
            help="How long to try before giving up.  [default: 10]",
        ),
        click.Option(
            ["-o", "--output"],
            type=click.Choice(["table", "json"]),
            expose_value=False,
            is_eager=True,
            callback=_remember("format"),
            help="How to print data.  [default: table]",
        ),
    ]


class Command(click.Command):
    """A command with the common options and an Examples section."""

    def __init__(self, *args: Any, examples: str = "", **settings: Any) -> None:
        settings.setdefault("context_settings", {}).setdefault("help_option_names", ["-h", "--help"])
        self.common = common_options()
        self.examples = cleandoc(examples).splitlines()
        settings["params"] = [*(settings.get("params") or []), *self.common]
        super().__init__(*args, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        ctx.ensure_object(Invocation).command = ctx.command_path
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own: list[tuple[str, str]] = []
        common: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                shared = param in self.common or param is self.get_help_option(ctx)
                (common if shared else own).append(record)
        _write_section(formatter, "Options", own)
        self.format_commands_section(ctx, formatter)
        _write_section(formatter, "Common options", common)

    def format_commands_section(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Nothing: only a group has commands."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def _write_section(formatter: click.HelpFormatter, title: str, records: Sequence[tuple[str, str]]) -> None:
    if records:
        with formatter.section(title):
            formatter.write_dl(records, col_max=28)


class Group(Command, click.Group):
    """A group of commands: knows its nearest names, and imports a command's file only when asked for.

    `files` maps the name of a command to the module that holds it under the same name.
    """

    command_class = Command

    def __init__(self, *args: Any, files: Mapping[str, str] | None = None, **settings: Any) -> None:
        self.files = dict(files or {})
        super().__init__(*args, invoke_without_command=True, subcommand_metavar="COMMAND ...", **settings)
        self.no_args_is_help = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *self.files]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.files:
            module = importlib.import_module(self.files[cmd_name])
            command: click.Command = getattr(module, cmd_name)
            return command
        return self.commands.get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            near = get_close_matches(name, self.list_commands(ctx), n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"There is no command {name!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        if not (ctx._protected_args or ctx.args or ctx.resilient_parsing):  # noqa: SLF001 - as Group.invoke asks
            click.echo(ctx.get_help(), err=ctx.parent is not None)
            ctx.exit(2 if ctx.parent is not None else 0)
        return super().invoke(ctx)

    def format_commands_section(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                records.append((name, command.get_short_help_str(64)))
        _write_section(formatter, "Commands", records)
