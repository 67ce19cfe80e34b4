"""`weave completion`: the script by which a shell completes commands, options and names."""

from __future__ import annotations

import click

from weave_net.command_base import WeaveCommand
from weave_net.completion import SHELLS, script


@click.command(cls=WeaveCommand)
@click.argument("shell", type=click.Choice(tuple(SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what a shell needs to complete 'weave'.

    \b
    bash   weave completion bash > /etc/bash_completion.d/weave
    zsh    weave completion zsh > "${fpath[1]}/_weave"
    fish   weave completion fish > /etc/fish/completions/weave.fish

    Or, for one session: source <(weave completion bash)
    """
    click.echo(script(shell, ctx.find_root().command))
