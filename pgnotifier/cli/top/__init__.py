"""`pgnotifier top`: what the listeners of a database do, live, on the whole screen.

`app`, `table`, `asking` and `panels` import Textual, and are imported only when the command runs.
"""
