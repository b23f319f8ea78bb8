"""The demo's app, changed to lose two things in the listener, and to run another one twice."""

from pgnotifier.demo.app import app, notifier
from pgnotifier.demo.recording import record_execution
from pgnotifier.payload import decode

__all__ = ["app"]


def lose(text):
    """Decode a payload; raise if it is that of the first notification, or of the third payment."""
    if "WARNING" in text or ('"id":3,' in text and '"paid":true' in text):
        raise ValueError("lost on purpose")
    return decode(text)


notifier.decoder = lose


@notifier.on("ch1", id="again")
def again(id, channel, payload, pid):
    """Record a second execution for the payload that is a list."""
    if payload == [1, 2, 3, 4, 5]:
        record_execution(channel, payload)
