"""The demo's app, made to lose one notification in the listener and to run another one twice."""

from pgnotifier.demo.app import app, notifier
from pgnotifier.demo.recording import record_execution
from pgnotifier.payload import decode

__all__ = ["app"]


def lose(text):
    """Decode all but the first notification."""
    if "WARNING" in text:
        raise ValueError("lost on purpose")
    return decode(text)


notifier.decoder = lose


@notifier.on("ch1", id="again")
def again(id, channel, payload, pid):
    """Run the list once more."""
    if payload == [1, 2, 3, 4, 5]:
        record_execution(channel, payload)
