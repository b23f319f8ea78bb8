"""Whether there is a terminal to draw on, and to read keys from."""

import os
import sys
from typing import TextIO

import click


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal that is still there."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False


def check_terminal() -> None:
    """Exit with code 2 if there is no terminal. Textual draws on standard error."""
    streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    if all(map(is_terminal, streams)) and os.environ.get("TERM") != "dumb":
        return
    click.echo(
        "pgnotifier: top needs a terminal for input, output and errors. In a pipe or a script, "
        "use:  pgnotifier status --watch",
        err=True,
    )
    sys.exit(click.UsageError.exit_code)
