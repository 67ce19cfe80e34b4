"""Flags in the notation of Go programs, which scripts for Weave Net use: `-name x`, `-no-discovery`, `--plugin=false`.

Arguments are rewritten before click reads them, with knowledge of the command's options: `-name` becomes `--name` if
there is such an option, `--flag=true` becomes `--flag`, and `--flag=false` goes away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_TRUE = frozenset({"true", "1", "t", "True", "TRUE", "T"})
_FALSE = frozenset({"false", "0", "f", "False", "FALSE", "F"})


def normalise_flags(
    arguments: Sequence[str], parameters: Iterable[click.Parameter], *, until_operand: bool = False
) -> list[str]:
    """The arguments in click's notation; `until_operand` leaves everything after the first operand as it is.

    Raises `click.UsageError` for a truth value that is none.
    """
    options = {name: option for option in parameters if isinstance(option, click.Option) for name in option.opts}
    rest = iter(arguments)
    result: list[str] = []
    for argument in rest:
        if argument == "--" or (until_operand and not argument.startswith("-")):
            result.append(argument)
            break
        result.extend(_normalise(argument, options, rest))
    result.extend(rest)
    return result


def _normalise(argument: str, options: dict[str, click.Option], rest: Iterator[str]) -> Iterator[str]:
    name, equals, value = argument.partition("=")
    if name.startswith("-") and not name.startswith("--") and len(name) > 2 and f"-{name}" in options:
        name = f"-{name}"
    option = options.get(name)
    if option is None or not argument.startswith("-"):
        yield argument
    elif option.is_flag or option.count:
        if not equals or value in _TRUE:
            yield name
        elif value not in _FALSE:
            raise click.UsageError(f"{name}={value}: the value must be true or false")
    elif equals:
        # One argument for long options; a short one takes its value as the next argument, or "=" would belong to it.
        yield from (f"{name}={value}",) if name.startswith("--") else (name, value)
    else:
        yield name
        yield from (value for _, value in zip(range(option.nargs), rest, strict=False))
