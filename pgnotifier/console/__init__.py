"""A page for the browser that shows the listeners of a database, live.

It needs `pip install 'pgnotifier[console]'`. The command `pgnotifier console` serves it, and so
does a listener that is started with `--console`.
"""
