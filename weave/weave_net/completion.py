"""Completion in shells: what fits at a place of the command line.

A shell runs `weave` with the variable `_WEAVE_COMPLETE` for it. It must be quick: names of commands need no import of
their modules, and a daemon that does not answer at once is not waited for.
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete

from weave_net.command_base import locations_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import click
    from click.shell_completion import ShellComplete

    from weave_net.client import DaemonClient

VARIABLE = "_WEAVE_COMPLETE"
"""Set by the shell while it asks."""

ANSWER_LIMIT_S = 1.0

_PLAIN = re.compile(r"[\w.:@%+/-]+", re.ASCII)
"""What shells take as it is: names come from other hosts, and the scripts quote nothing."""

SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


def script(shell: str, command: click.Command) -> str:
    """What a shell has to read to complete `weave`; made here, without asking the shell for its version."""
    made = SHELLS[shell](command, {}, "weave", VARIABLE)
    return made.source_template % made.source_vars()


def command_items(names: Iterable[str], incomplete: str) -> list[CompletionItem[str]]:
    """The commands that begin so."""
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_parameters(name: str, command: click.Command) -> None:
    """Have the parameters of this command completed for which there is a source."""
    for parameter in command.params:
        source = _SOURCES.get((name, parameter.name or ""))
        if source is not None:
            # On the object: sources belong to names of commands and of parameters, whatever class these are of.
            parameter.shell_complete = partial(_complete, source)  # type: ignore[method-assign]


def _complete(source: Callable[[click.Context], Iterable[str]], ctx: click.Context, incomplete: str) -> list[Any]:
    try:
        found = [text for text in dict.fromkeys(source(ctx)) if text.startswith(incomplete)]
    except Exception:  # nothing is worth an error message in the middle of somebody's command line
        return []
    return [CompletionItem(text) for text in found if _PLAIN.fullmatch(text)]


def _views(_: click.Context) -> Iterable[str]:
    from weave_net.commands.views import VIEWS

    return VIEWS


def _commands(_: click.Context) -> Iterable[str]:
    from weave_net.cli import COMMANDS

    return sorted(COMMANDS)


def _attachments(ctx: click.Context) -> Iterator[str]:
    """Ids of what is attached, those of containers as `weave ps` shows them."""
    from weave_net.commands.attachments import is_meant

    with _client(ctx) as client:
        for attachment in client.attachments():
            identifier = str(attachment["id"])
            yield identifier[:12] if is_meant(identifier, identifier[:12]) else identifier


def _interfaces(ctx: click.Context) -> Iterator[str]:
    with _client(ctx) as client:
        yield from (str(attachment["interface"]) for attachment in client.attachments())


def _targets(ctx: click.Context) -> Iterable[str]:
    with _client(ctx) as client:
        return client.text("/status/targets").splitlines()


def _peers(ctx: click.Context) -> Iterator[str]:
    """Nicknames of peers, and their names where several have the same."""
    with _client(ctx) as client:
        peers = json.loads(client.document("/status/peers"))
    nicknames = [str(peer["NickName"]) for peer in peers]
    for peer, nickname in zip(peers, nicknames, strict=True):
        yield nickname if nickname and nicknames.count(nickname) == 1 else str(peer["Name"])


def _names(ctx: click.Context) -> Iterator[str]:
    with _client(ctx) as client:
        entries = json.loads(client.document("/status/dns"))["Entries"] or ()
    yield from (str(entry["Hostname"]).rstrip(".") for entry in entries if not entry["Tombstone"])


def _exposed(ctx: click.Context) -> Iterable[str]:
    with _client(ctx) as client:
        return list(client.exposed()["addresses"])


def _client(ctx: click.Context) -> DaemonClient:
    from weave_net.client import DaemonClient

    return DaemonClient(locations_of(ctx, None, ctx.params.get("run_dir")), answer_limit_s=ANSWER_LIMIT_S)


_SOURCES: dict[tuple[str, str], Callable[[click.Context], Iterable[str]]] = {
    ("detach", "attachment_id"): _attachments,
    ("detach", "interface"): _interfaces,
    ("detach", "words"): _attachments,
    ("dns-add", "words"): _attachments,
    ("dns-lookup", "name"): _names,
    ("dns-remove", "words"): _attachments,
    ("forget", "peers"): _targets,
    ("help", "command"): _commands,
    ("hide", "addresses"): _exposed,
    ("ps", "containers"): _attachments,
    ("rmpeer", "peers"): _peers,
    ("status", "view"): _views,
}
"""By command and parameter."""
