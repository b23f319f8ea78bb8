"""Provide `CeleryOutbox`, which publishes tasks as part of a PostgreSQL transaction."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery import Celery

from pgnotifier._log.outbox_entries import Outbox
from pgnotifier._registry.checks import check_channel
from pgnotifier.contrib._queues.blocks import Block
from pgnotifier.contrib._queues.connections import AnyConnection
from pgnotifier.contrib._queues.patterns import check_patterns
from pgnotifier.contrib.celery.dispatcher import check_app
from pgnotifier.contrib.celery.outbox_capture import Capture
from pgnotifier.contrib.celery.outbox_messages import channel_of, subscription_of
from pgnotifier.contrib.celery.outbox_sessions import Following, SessionFollower
from pgnotifier.contrib.celery.relay import OutboxDispatcher, find_relayed
from pgnotifier.contrib.celery.settings import read_setting
from pgnotifier.errors import ArgumentTypeError

if TYPE_CHECKING:
    from pgnotifier.notifier import Notifier


class CeleryOutbox:
    """Publishes tasks in a transaction of PostgreSQL: they are sent if and once it has committed.

        outbox = CeleryOutbox(app)

        with connection.transaction():
            connection.execute("INSERT INTO orders ...")
            with outbox(connection):
                invoice.delay(order_id)
                chain(fetch.s(url), store.s()).apply_async(countdown=60)

    In the block, Celery makes the messages of this app's tasks as always, but nothing is sent to
    the broker. When the block ends, they are inserted into the durable log, a thousand in one
    statement. A relay sends them to the broker after the commit, at least once, in order. If the
    transaction is rolled back, even just to a savepoint, or if the block raises, they are never
    sent.

    A call such as `task.apply_async(outbox=False)` is sent at once, even in a block.

    The tasks of other apps aren't captured. There is no connection to the broker.

    `Task.retry` and `Task.replace` publish at once, because they end the task with an exception,
    which rolls the transaction back. With `task_always_eager`, tasks run at once, too.
    """

    def __init__(self, app: Celery, name: str = "default") -> None:
        """Make an outbox; the configuration isn't read yet, and nothing is connected.

        Args:
            app: The app that the tasks belong to.
            name: The outbox's name in the database. Apps that share a database, but not their
                broker, need different ones.

        Raises:
            ArgumentTypeError: An argument is of the wrong type.
            ChannelNameError: The name is longer than 45 bytes, or PostgreSQL doesn't allow it.
        """
        self._app = check_app(app)
        if not isinstance(name, str):
            raise ArgumentTypeError(f"name must be a str, not {name!r:.80}")
        self.name = name
        channel = check_channel(channel_of(name))
        self._log = Outbox(channel, subscription_of(self._app.main or ""))
        self._capture = Capture.of(self._app)
        self._follower = SessionFollower(self._app, self._log)

    def __repr__(self) -> str:
        return f"<CeleryOutbox {self.name!r} of {self._app.main!r}>"

    @property
    def app(self) -> Any:
        """The app that the tasks belong to."""
        return self._app

    @property
    def channel(self) -> str:
        """The channel of the durable log that holds the messages."""
        return self._log.channel

    @property
    def subscription(self) -> str:
        """The name of the relay's subscription in the durable log."""
        return self._log.subscription

    def relay_to(
        self,
        notifier: "Notifier",
        *,
        allow: Iterable[str] | None = None,
        max_age: timedelta | None = None,
    ) -> None:
        """Have a notifier, in any process, send committed tasks to the app's broker.

        The app's commands then run this notifier as well: `celery -A shop pgnotifier`, or
        `worker --pgnotifier`.

        Called again for the same notifier, it replaces what is given, and keeps the rest.

        Args:
            notifier: Any notifier on the same database.
            allow: The names, or patterns such as `shop.tasks.*`, of the tasks that may be enqueued
                from SQL with `pgnotifier.enqueue()`. Default: the app's setting
                `pgnotifier_outbox_allow`; or the tasks that are registered with the app.
            max_age: How long a message may wait before the notifier counts as not ready: see
                `/readyz`. Default: the app's setting `pgnotifier_outbox_max_age`, in seconds; or
                any time.

        Raises:
            ArgumentTypeError: `allow` isn't a list of names, or `max_age` isn't a timedelta.
            ConfigurationError: `max_age` isn't positive, or a setting's value is invalid.
            PgNotifierError: Whatever `Notifier.subscribe` raises.
        """
        before = find_relayed(self, notifier)
        if allow is None and (allow := before.allow) is None:
            allow = read_setting(self._app, "outbox_allow")
        if max_age is None and (max_age := before.max_age) is None:
            seconds = read_setting(self._app, "outbox_max_age")
            max_age = None if seconds is None else timedelta(seconds=seconds)
        dispatcher = OutboxDispatcher(self._app, self.name, allow=allow)
        dispatcher.relay_to(notifier, max_age=max_age)

    def follow(
        self,
        sessions: Any,
        *,
        bind_arguments: Mapping[str, Any] | None = None,
        exclude: Iterable[str] = (),
    ) -> Following:
        """Have tasks published in the transactions of SQLAlchemy's sessions, without a block.

            Session = sessionmaker(engine)
            outbox.follow(Session)

            with Session.begin() as session:
                session.add(order)
                invoice.delay(7)  # sent if and once this has committed

        A task is part of the transaction that a followed session has open where it is published: in
        the thread, or the task of asyncio, that has used the session. The messages are inserted by
        `commit()`, a thousand in one statement. What is rolled back, even just to a savepoint of
        the session, is never sent. Where no transaction is open, tasks are sent to the broker at
        once. Blocks take precedence over sessions. Outside of blocks, a task with `outbox=False`
        and a task that `exclude` names are published as without an outbox.

        A session that has only read has an open transaction, too.

        Args:
            sessions: A class of sessions, a sessionmaker, a scoped_session, or their forms for
                asyncio.
            bind_arguments: What chooses the database of a session with several, as
                `Session.connection` takes it. Default: the session's only one.
            exclude: The names, or patterns such as `vendor.*`, of tasks that are published as
                without an outbox.

        Returns:
            An object that ends it: it has `undo()`, and is a context manager.

        Raises:
            ArgumentTypeError: `sessions` is none of these, or `exclude` isn't a list of names.
            ConfigurationError: The outbox follows some of these sessions already. Publishing also
                raises it, if several followed sessions have an open transaction there.
        """
        excluded = check_patterns(exclude, "vendor.*", "exclude") or ()
        following = self._follower.follow(sessions, bind_arguments, excluded)
        finders = self._capture.finders
        if self._follower.find not in finders:
            finders.insert(0, self._follower.find)  # Django's takes everything
        return following

    def __call__(self, connection: AnyConnection = None) -> Block:
        """Return a block, for `with` or `async with`: its tasks are part of a transaction.

        Args:
            connection: A connection of psycopg, psycopg2 or Django; a Connection or Session of
                SQLAlchemy; a cursor of any driver that takes arguments as `%s`; an alias of
                Django's DATABASES. Default: Django's default database. With `async with`, an
                AsyncConnection or AsyncCursor of psycopg, or an AsyncConnection, AsyncSession or
                async_scoped_session of SQLAlchemy. In autocommit, the tasks are committed when the
                block ends.
        """
        return Block(self._log, self._capture, connection)

    def enqueue(self, connection: AnyConnection, signature: Any, **options: Any) -> Any:
        """Publish one task or canvas in a transaction; return what its `apply_async` returns.

        Args:
            connection: As for `__call__`.
            signature: A signature, a canvas, or a task.
            options: Options of `apply_async`, such as `args`, `queue` or `countdown`.

        Raises:
            ArgumentTypeError: It isn't a signature, or not one of this app; or it isn't a
                connection.
            PgNotifierError: As for `pgnotifier.durable.publish`.
        """
        self._check(signature)
        with self(connection):
            return signature.apply_async(**options)

    def enqueue_many(self, connection: AnyConnection, signatures: Iterable[Any]) -> list[Any]:
        """Publish many tasks, in order, in one statement per thousand; return their results.

        On a connection of psycopg, several statements are sent in one round trip.

        Raises:
            PgNotifierError: As for `enqueue`.
        """
        with self(connection):
            return [*self._capture.stamper.apply_all([*map(self._check, signatures)])]

    async def aenqueue(self, connection: AnyConnection, signature: Any, **options: Any) -> Any:
        """Publish one task or canvas on an async connection: see `enqueue`."""
        self._check(signature)
        async with self(connection):
            return signature.apply_async(**options)

    async def aenqueue_many(
        self, connection: AnyConnection, signatures: Iterable[Any]
    ) -> list[Any]:
        """Publish many tasks on an async connection: see `enqueue_many`."""
        async with self(connection):
            return [*self._capture.stamper.apply_all([*map(self._check, signatures)])]

    def _check(self, signature: Any) -> Any:
        if getattr(signature, "_app", None) is self._app:
            return signature  # so it is with most of many, and the rest takes a while
        if not hasattr(signature, "apply_async"):
            raise ArgumentTypeError(
                f"enqueue a signature, as in task.s(1), not {type(signature).__name__}"
            )
        app = check_app(signature.app)
        if app is not self._app:
            # Its repr has the arguments, which may be personal.
            raise ArgumentTypeError(
                f"{signature.name!r:.80} is of the app {app.main!r}, but this outbox is of "
                f"{self._app.main!r}"
            )
        return signature
