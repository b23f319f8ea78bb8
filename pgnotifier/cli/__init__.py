"""The `pgnotifier` command.

It needs what `pip install 'pgnotifier[cli]'` brings, and its `demo` the extra of that name; the
library itself needs none of that.
"""

import sys
from typing import NoReturn

OPTIONAL = frozenset({"celery", "click", "kombu", "redis", "rich"})
"""What an installation without extras lacks."""

NOT_INSTALLED = 2
"""The exit code when something isn't installed."""
INTERRUPTED = 130
"""The exit code after Ctrl-C, by the convention of shells."""


def main() -> None:
    """Run the command line, or say what to install for it."""
    try:
        from pgnotifier.cli.command import pgnotifier
    except ModuleNotFoundError as exc:
        explain_missing(exc, "demo" if sys.argv[1:2] == ["demo"] else "cli")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    pgnotifier()


def explain_missing(exc: ModuleNotFoundError, extra: str) -> NoReturn:
    """End with a hint at an extra, if it is one of its modules that is missing.

    Raises:
        ModuleNotFoundError: It isn't, so that this is a defect.
    """
    missing = (exc.name or "").partition(".")[0]
    if missing not in OPTIONAL:
        raise exc
    print(
        f"pgnotifier: this command needs {missing}, which isn't installed. Run:\n\n"
        f"    pip install 'pgnotifier[{extra}]'\n",
        file=sys.stderr,
    )
    sys.exit(NOT_INSTALLED)
