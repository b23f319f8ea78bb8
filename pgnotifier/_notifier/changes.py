"""Changes of channels and subscriptions: in the registry first, then on the server."""

from collections.abc import Callable, Hashable
from functools import partial

from pgnotifier._delivery.deliverer import called_by_callback
from pgnotifier._listener.commands import Verb
from pgnotifier._notifier.autostart import starts
from pgnotifier._notifier.lifecycle import Lifecycle, Owner
from pgnotifier._registry.change import Change, Claim
from pgnotifier._registry.writer import Registrar
from pgnotifier._runtime.sync import ChangeLock, Outcome, may_be_put_off
from pgnotifier.dispatch import Dispatcher, Subscription
from pgnotifier.errors import ListenRefusedError, LogNotInstalledError, LogRefusedError


class Changes:
    """Makes changes, waits until the server has confirmed them, and undoes refused ones.

    Any thread may call any method. A change that interrupts another one of the same thread, as
    a signal handler may, is put off until that one is done.
    """

    def __init__(self, owner: Owner, lifecycle: Lifecycle, autorun: bool | None) -> None:
        """Take what is changed.

        Args:
            owner: The notifier.
            lifecycle: Runs the listener, and has the lock, the registry and the dispatchers.
            autorun: What `Notifier(autorun=)` takes.
        """
        self._owner = owner
        self._lifecycle = lifecycle
        self._registrar = self._choose_registrar(lifecycle)
        self._attachments = lifecycle.attachments
        self._autorun = autorun

    @property
    def lock(self) -> ChangeLock:
        """Guards the registry."""
        return self._lifecycle.lock

    def _choose_registrar(self, lifecycle: Lifecycle) -> Registrar:
        """Return what has the registry that is changed."""
        return lifecycle.registrar

    def attach(self, dispatcher: Dispatcher) -> None:
        """Attach a dispatcher that isn't attached yet."""
        self._attachments.attach(dispatcher, self._lifecycle.is_running)

    def has(self, id: Hashable, channel: str) -> bool:
        """Return whether an id is subscribed to a channel."""
        return self._registrar.registry.binding(id, channel) is not None

    @may_be_put_off
    def add_channels(self, names: list[str], autorun: bool) -> None:
        """Add channels: see `Notifier.add_channels`."""
        with self.lock:
            claim = self._registrar.add(names)
            done = self._request("listen", names, autorun)
        self._wait_live(
            done,
            autorun,
            keep=lambda: self._registrar.accept(claim),
            undo=lambda: self._remove_refused(claim),
        )

    @may_be_put_off
    def remove_channels(self, names: list[str], autorun: bool) -> None:
        """Remove channels: see `Notifier.remove_channels`."""
        with self.lock:
            self._registrar.remove(names)
            self._request("unlisten", names, autorun)
        self._unbind_leaving()

    @may_be_put_off
    def subscribe(self, given: Subscription, autorun: bool) -> None:
        """Add or replace a subscription: see `Notifier.subscribe`."""
        change, done = self._bind(given, autorun)
        self._wait_live(
            done,
            autorun,
            keep=lambda: self._registrar.settle(change),
            undo=lambda: self._take_back(change),
        )

    @may_be_put_off
    def unsubscribe(self, id: Hashable, channel: str, autorun: bool) -> None:
        """Remove a subscription: see `Notifier.unsubscribe`."""
        with self.lock:
            if self._registrar.unsubscribe(id, channel):
                self._request("unlisten", [channel], autorun)
        self._unbind_leaving()

    @may_be_put_off
    def mute_channels(self, names: list[str] | None, *, muted: bool) -> None:
        """Mute or unmute channels; None stands for all."""
        with self.lock:
            self._registrar.mute_channels(self._or_all(names), muted)

    @may_be_put_off
    def mute_subscriber(self, id: Hashable, names: list[str] | None, *, muted: bool) -> None:
        """Mute or unmute an id on channels; None stands for all."""
        with self.lock:
            self._registrar.mute_subscriber(id, self._or_all(names), muted)

    def _or_all(self, names: list[str] | None) -> list[str]:
        return list(self._registrar.registry) if names is None else names

    def _bind(
        self, given: Subscription, autorun: bool, undoing: Change | None = None
    ) -> tuple[Change, Outcome | None]:
        """Bind a subscription, put it into the registry, and queue LISTEN.

        The dispatcher binds it without the lock. It may wait for another thread, such as one
        that finalizes a Celery app, and that thread may be importing a module that subscribes.
        """
        again = False
        while True:
            with self.lock:
                change = self._registrar.begin(given.id, given.channel, undoing)
            try:
                self._registrar.bind(given, change, again=again)
            except BaseException:
                self._unbind_leaving()
                raise
            with self.lock:
                if self._registrar.complete(change):
                    done = self._request("listen", [given.channel], autorun)
                    break
            again = True
        self.attach(given.dispatcher)  # it may have lost its last subscription meanwhile
        self._unbind_leaving()
        return change, done

    def _unbind_leaving(self) -> None:
        """Have dispatchers forget what was removed. Without the lock, as in `_bind`."""
        while True:
            with self.lock:
                leaving = self._registrar.next_leaving()
            if leaving is None:
                break
            change, subscription = leaving
            try:
                self._registrar.unbind(subscription, change)
            finally:
                with self.lock:
                    self._registrar.forgotten(change, subscription)
        self._forget_unused()

    def _forget_unused(self) -> None:
        """Forget the dispatchers that have lost their last subscription."""
        with self.lock:
            unused = self._attachments.remove(self._lifecycle.take_unused())
            listener = self._lifecycle.running
            if listener is not None and unused:
                listener.retire(unused)

    def _take_back(self, refused: Change) -> None:
        """Restore what was there before a subscription that the server has refused."""
        while True:
            with self.lock:
                before = self._registrar.refuse(refused)
                if before is None:
                    self._registrar.take_back(refused)
                if not self._registrar.holds(refused):
                    break
            assert before is not None
            self._bind(before, autorun=False, undoing=refused)
        self._remove_refused(refused.claim)

    def _remove_refused(self, claim: Claim) -> None:
        with self.lock:
            self._registrar.give_up(claim)
        self._unbind_leaving()

    def _request(self, verb: Verb, names: list[str], autorun: bool) -> Outcome | None:
        """Queue a command for a listener that runs. Under the lock: in the registry's order.

        Nobody has to wait for UNLISTEN: the registry has no lanes for what still arrives.
        """
        listener = self._lifecycle.running
        return listener.request(verb, names) if autorun and listener and names else None

    def _wait_live(
        self,
        done: Outcome | None,
        autorun: bool,
        keep: Callable[[], None],
        undo: Callable[[], None],
    ) -> None:
        """Wait until a change is live; undo it if the server refuses it, else keep it."""
        self._registrar.spelling.warn()
        end: Callable[[], object] = partial(self._keep, keep)
        try:
            if done is not None:
                self._lifecycle.confirm(done)
            elif self._starts_notifier(autorun):
                self._owner.start()  # waits, if another thread has started it meanwhile
        except (ListenRefusedError, LogNotInstalledError, LogRefusedError):
            end = undo
            raise
        finally:
            end()

    @may_be_put_off
    def _keep(self, keep: Callable[[], None]) -> None:
        with self.lock:
            keep()

    def _starts_notifier(self, autorun: bool) -> bool:
        # A callback may still run after a `stop()` that waits for it, or has given it up, and a
        # start would undo that.
        listener = self._lifecycle.listener
        awaited = called_by_callback(self._owner) or (
            listener is not None and listener.waits_for_caller()
        )
        return starts(
            self._autorun,
            asked=autorun,
            is_awaited=awaited,
            dispatchers=self._attachments,
        )
