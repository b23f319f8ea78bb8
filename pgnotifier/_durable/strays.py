"""Warn about strays: plain notifications on channels that are read durably, which reach nobody."""

import logging
from collections.abc import Callable, Iterable

from pgnotifier._log.references import CHANNEL, PUBLISHED
from pgnotifier._runtime.log_records import about

logger = logging.getLogger("pgnotifier.durable")

OWN = frozenset({"pgnotifier_wake", CHANNEL, PUBLISHED})
"""Channels that are notified by pgnotifier itself."""

Listen = Callable[[str, Iterable[str]], object]
"""Executes LISTEN, or UNLISTEN, for some channels."""


class Strays:
    """Warns once about each channel on which somebody notifies instead of publishing.

    A source's session listens to the channels that it reads, until it has warned. Notifications of
    `publish(…, notify=True)` are not strays. Before the first of them in a transaction, the name of
    the channel is sent on `PUBLISHED`. All notifications of a transaction arrive in order, and
    without those of other sessions in between. So the name counts until another session has sent
    something. A plain notification that the same session sends next isn't noticed.

    Owned by the source's thread.
    """

    def __init__(self, warned: dict[str, object]) -> None:
        """Begin without a session.

        Args:
            warned: The channels that were warned about, and which source did so. All sources of
                the notifier share it.
        """
        self._warned = warned
        self.begin()

    def begin(self) -> None:
        """Begin with a new session, which doesn't listen to anything yet."""
        self._listening: frozenset[str] = frozenset()
        self._found: dict[str, None] = {}
        self._pid = 0
        self._published: set[str] = set()

    def watch(self, channels: Iterable[str], listen: Listen) -> None:
        """Listen to those channels that weren't warned about yet; warn about what has arrived."""
        self.warn()
        wanted = frozenset(one for one in channels if one not in self._warned) - OWN
        if wanted:
            wanted |= {PUBLISHED}
        before, self._listening = self._listening, wanted  # now: something may arrive meanwhile
        for verb, names in (("LISTEN", wanted - before), ("UNLISTEN", before - wanted)):
            if names:
                listen(verb, names)

    def note(self, channel: str, payload: str, pid: int) -> None:
        """Note a notification that has arrived."""
        if pid != self._pid:
            self._pid = pid
            self._published.clear()
        if channel == PUBLISHED:
            if payload in self._listening:
                self._published.add(payload)
        elif channel in self._listening and channel not in self._published:
            self._found[channel] = None

    def warn(self) -> bool:
        """Warn about what has arrived since the last call; return whether there was anything."""
        found, self._found = self._found, {}
        for channel in found:
            # Of several threads that get here, only the first one warns.
            if channel not in self._warned and self._warned.setdefault(channel, self) is self:
                logger.warning(
                    "a plain NOTIFY on channel %r reaches no durable subscription. Publish with "
                    "pgnotifier.durable.publish() or SELECT pgnotifier.publish() instead; add "
                    "notify=True to reach volatile subscriptions as well",
                    channel,
                    extra=about("plain_notify", channel=channel),
                )
        return bool(found)
