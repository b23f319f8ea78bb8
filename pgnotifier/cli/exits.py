"""Exit codes of commands, and the hint that is printed when an extra isn't installed."""

import sys
from typing import NoReturn

OPTIONAL = frozenset(
    {"celery", "click", "kombu", "redis", "rich", "starlette", "textual", "uvicorn"}
)
"""The modules that are missing without extras."""

NOT_INSTALLED = 2
"""The exit code when something isn't installed."""
INTERRUPTED = 130
"""The exit code after Ctrl-C, by the convention of shells."""
CLOSED = 141
"""The exit code when nobody reads the output any more, as after SIGPIPE."""


def explain_missing(exc: ModuleNotFoundError, extra: str) -> NoReturn:
    """Exit with a hint about which extra to install, if the missing module belongs to one.

    Raises:
        ModuleNotFoundError: It doesn't, so this is a defect.
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
