"""A page for the browser that shows the listeners of a database, live.

It needs `pip install 'pgnotifier[console]'`. The command `pgnotifier console` serves it, and so
does a listener that is started with `--console`.
"""

HOST = "127.0.0.1"
PORT = 8484
BESIDE = (
    f"Serve the page of `pgnotifier console` as well, on {HOST}:{PORT} unless "
    "PGNOTIFIER_CONSOLE_HOST and PGNOTIFIER_CONSOLE_PORT say otherwise."
)
"""The help of the option `--console` of listeners."""
INTERVAL = 2.0
"""Seconds between two looks at the listeners."""
