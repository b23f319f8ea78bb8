"""The end of a deliverer: the flags by which its thread drains, gives up or retires."""

from pgnotifier._runtime.sync import Bell


class Ending:
    """What a deliverer's thread looks at to know whether to go on. `bell.lock` guards it.

    Attributes:
        bell: Wakes the deliverer's thread. Its lock guards the buffer and the flags as well.
        is_draining: Whether the deliverer ends once everything is delivered.
        is_abandoned: Whether what is left is given up.
        is_retiring: Whether the deliverer ends as soon as it has nothing to do.
        is_idle: Whether its thread waits, and its dispatcher has nothing pending.
        has_retired: Whether it ends because it had nothing to do.
        has_ended: Whether the deliverer no longer takes anything.
    """

    def __init__(self) -> None:
        self.bell = Bell()
        self.is_draining = False
        self.is_abandoned = False
        self.is_retiring = False
        self.is_idle = False
        self.has_retired = False
        self.has_ended = False

    def drain(self) -> None:
        """End once everything is delivered."""
        with self.bell.lock:
            self.is_draining = True
            self.bell.ring()

    def retire(self, *, is_busy: bool) -> bool:
        """End if the deliverer has nothing to do; return whether that is so.

        The first call only asks the thread whether it is idle. The caller holds the lock.
        """
        if self.is_retiring and self.is_idle and not is_busy:
            self.is_draining = self.has_retired = True
        elif not self.is_retiring:
            self.is_retiring, self.is_idle = True, False
        self.bell.ring()
        return self.has_retired

    def abandon(self) -> None:
        """Give up what is left."""
        with self.bell.lock:
            self.is_draining = self.is_abandoned = True
            self.bell.ring()

    def abandon_in_child(self) -> None:
        """Give up what is left in a forked child, where no other thread frees the lock."""
        self.bell = Bell()
        self.is_draining = self.is_abandoned = True
