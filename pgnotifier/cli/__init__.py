"""The `pgnotifier` command.

It needs what `pip install 'pgnotifier[cli]'` brings, and its `demo` the extra of that name; the
library itself needs none of that.
"""

import sys

from pgnotifier.cli.exits import INTERRUPTED, explain_missing


def main() -> None:
    """Run the command line, or say what to install for it."""
    try:
        from pgnotifier.cli.command import pgnotifier
    except ModuleNotFoundError as exc:
        explain_missing(exc, "demo" if sys.argv[1:2] == ["demo"] else "cli")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    pgnotifier()
