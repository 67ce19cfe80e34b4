"""The command `weave`: finds the subcommand, turns errors into a message and exit status 1.

Modules of subcommands are imported when they are called, so that `weave status` does not wait for what `weave launch`
needs.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from weave_net.command_base import Locations, WeaveCommand, directory_options
from weave_net.errors import WeaveError
from weave_net.flags import normalise_flags

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from click.shell_completion import CompletionItem

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What only writing to a file or terminal fails with; click deals with a pipe that nobody reads."""

COMMANDS = {
    "attach": "attachments",
    "completion": "completion",
    "connect": "peers",
    "detach": "attachments",
    "dns-add": "naming",
    "dns-args": "naming",
    "dns-lookup": "naming",
    "dns-remove": "naming",
    "doctor": "doctor",
    "expose": "exposure",
    "forget": "peers",
    "help": "help",
    "hide": "exposure",
    "launch": "launch",
    "prime": "allocation",
    "ps": "attachments",
    "report": "views",
    "reset": "lifecycle",
    "rmpeer": "allocation",
    "setup": "cni",
    "setup-cni": "cni",
    "setup-systemd": "systemd",
    "status": "views",
    "stop": "lifecycle",
    "version": "views",
}
"""Subcommands and the module below `weave_net.commands` in which a command of that name is (`help`: see below)."""

COMPLETION_VARIABLE = "_WEAVE_COMPLETE"
"""Set while a shell asks what fits at a place of the command line (`completion`)."""

ALIASES = frozenset({"setup"})
"""Names of Weave Net 2.8 for what has another name here; not listed."""

_PROXY = "the Docker API proxy is gone; attach containers through CNI, the Docker network plugin or 'weave attach'"
_DAEMON = "router, proxy and plugin are one daemon; use 'weave launch' and 'weave stop'"
_LATER = "it is not part of this release"

ABSENT_COMMANDS = {
    **dict.fromkeys(("run", "start", "restart", "env", "config"), _PROXY),
    **dict.fromkeys(("launch-router", "stop-router", "launch-plugin", "stop-plugin"), _DAEMON),
    **dict.fromkeys(("launch-proxy", "stop-proxy"), _PROXY),
    **dict.fromkeys(("bridge-type", "attach-bridge"), _LATER),
    "docker-bridge-ip": "weave does not use Docker's bridge",
}
"""Commands of Weave Net 2.8 that are not here, and why."""


class WeaveGroup(click.Group):
    """The top level: lazy subcommands, Go's flags, exit status 1 for every error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, sorted."""
        return sorted(COMMANDS.keys() - ALIASES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand."""
        if cmd_name == "help":
            _prepare_completion(cmd_name, _help)
            return _help
        module_name = COMMANDS.get(cmd_name)
        if module_name is None:
            return None
        module = importlib.import_module(f"weave_net.commands.{module_name}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        _prepare_completion(cmd_name, command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands that begin so, without a look at their modules; or options."""
        from weave_net.completion import command_items

        return [
            *command_items(self.list_commands(ctx), incomplete),
            *click.Command.shell_complete(self, ctx, incomplete),
        ]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand; an unknown one gets the usage, one of 2.8's also the reason."""
        name = args[0]
        if name not in COMMANDS and not ctx.resilient_parsing:
            reason = f": {ABSENT_COMMANDS[name]}" if name in ABSENT_COMMANDS else ""
            raise _UnknownCommand(f"There is no command '{name}'{reason}", ctx)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options before the subcommand."""
        if not args and not ctx.resilient_parsing:
            raise _UnknownCommand("", ctx)
        return super().parse_args(ctx, normalise_flags(args, self.get_params(ctx), until_operand=True))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run and exit: 0, or 1 with a message on standard error."""
        try:
            result = super().main(args, prog_name or "weave", complete_var, standalone_mode=False, **extra)
        except click.ClickException as error:
            error.show()
            result = 1
        except WeaveError as error:
            click.echo(str(error), err=True)
            result = 1
        except click.exceptions.Abort:
            click.echo("interrupted", err=True)
            result = 1
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            click.echo(f"the output cannot be written: {error.strerror}", err=True)
            result = 1
        sys.exit(result if isinstance(result, int) else 0)


def _prepare_completion(name: str, command: click.Command) -> None:
    """Where a shell asks what fits, have the command's parameters completed, too."""
    if COMPLETION_VARIABLE in os.environ:
        from weave_net.completion import complete_parameters

        complete_parameters(name, command)


class _UnknownCommand(click.UsageError):
    """Shows the complete usage."""

    def show(self, file: Any = None) -> None:
        assert self.ctx is not None  # noqa: S101 - given by both who raise it
        click.echo(f"{self.ctx.get_help()}\n", err=True, file=file)
        if self.message:
            click.echo(self.message, err=True, file=file)


@click.group(cls=WeaveGroup, context_settings={"help_option_names": ["--help"], "max_content_width": 110})
@directory_options
@click.option("--local", is_flag=True, hidden=True, help="Accepted for scripts that were written for Weave Net.")
@click.pass_context
def weave(ctx: click.Context, state_dir: Path | None, run_dir: Path | None, local: bool) -> None:
    """A mesh network for containers.

    Every host runs one router ('weave launch'); a host that knows one other host is part of the network.
    """
    ctx.obj = Locations(state_dir, run_dir)


@click.command("help", cls=WeaveCommand)
@click.argument("command", required=False)
@click.pass_context
def _help(ctx: click.Context, command: str | None) -> None:
    """Show this text, or that of one command."""
    group_context = ctx.find_root()
    if command is None:
        click.echo(group_context.get_help())
        return
    found = weave.get_command(group_context, command)
    if found is None:
        raise _UnknownCommand(f"There is no command '{command}'", group_context)
    click.echo(found.get_help(click.Context(found, info_name=command, parent=group_context)))


def main() -> NoReturn:
    """The entry point."""
    weave.main()
