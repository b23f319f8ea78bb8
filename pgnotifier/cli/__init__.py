"""The command `pgnotifier`: its entry point.

The command needs `pip install 'pgnotifier[cli]'`, and its subcommand `demo` needs
`pip install 'pgnotifier[demo]'`. The library itself needs neither.
"""

import sys

from pgnotifier.cli.exits import INTERRUPTED, explain_missing


def main() -> None:
    """Run the command line, or print what has to be installed for it."""
    try:
        from pgnotifier.cli.command import pgnotifier
    except ModuleNotFoundError as exc:
        explain_missing(exc, "demo" if sys.argv[1:2] == ["demo"] else "cli")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    pgnotifier()
