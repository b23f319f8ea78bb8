"""Without instrumentation there is no tracing."""

from pgnotifier import InlineDispatcher, Notifier
from pgnotifier._runtime.tracing import without_tracing


def test_no_tracing_by_default():
    """Nothing makes spans unless something was asked for it."""
    assert without_tracing() is None
    dispatcher = InlineDispatcher()
    Notifier("dbname=shop", dispatcher=dispatcher)
    assert dispatcher.tracing is None
