"""The `pgnotifier` command.

It needs what `pip install 'pgnotifier[demo]'` brings; the library itself needs none of that.
"""

import sys
from typing import NoReturn

OPTIONAL = frozenset({"celery", "click", "kombu", "redis", "rich"})
"""What an installation without the extra lacks."""

NOT_INSTALLED = 2
"""The exit code when something isn't installed."""
INTERRUPTED = 130
"""The exit code after Ctrl-C, by the convention of shells."""


def main() -> None:
    """Run the command line, or say what to install for it."""
    try:
        from pgnotifier.cli.command import pgnotifier
    except ModuleNotFoundError as exc:
        explain_missing(exc)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    pgnotifier()


def explain_missing(exc: ModuleNotFoundError) -> NoReturn:
    """End with a hint at the extra, if it is one of its modules that is missing.

    Raises:
        ModuleNotFoundError: It isn't, so that this is a defect.
    """
    missing = (exc.name or "").partition(".")[0]
    if missing not in OPTIONAL:
        raise exc
    print(
        f"pgnotifier: this command needs {missing}, which isn't installed. Run:\n\n"
        "    pip install 'pgnotifier[demo]'\n",
        file=sys.stderr,
    )
    sys.exit(NOT_INSTALLED)
