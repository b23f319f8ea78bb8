"""What users of the core write, which type checkers must accept."""

from collections.abc import Hashable, Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, assert_type

from pgnotifier import (
    Delivery,
    Dispatcher,
    Entry,
    Gap,
    InlineDispatcher,
    Notification,
    Notifier,
    PgNotifierError,
    StateChange,
    Status,
    Subscription,
    ThreadDispatcher,
    current_entry,
)


def report_error(exc: BaseException, subscription: Subscription, arrived: Notification) -> None:
    """Be called with what a callback has raised."""
    assert_type(subscription.channel, str)
    assert_type(arrived.raw, str)
    assert_type(arrived.received_at, datetime)
    print(exc)


def find_number() -> str:
    """Return the number and key of the callback's entry."""
    entry = current_entry()
    assert_type(entry, Entry | None)
    if entry is None:
        return ""
    assert_type(entry.id, int)
    assert_type(entry.attempt, int)
    assert_type(entry.published_at, datetime | None)
    return f"{entry.id} {entry.key}"


def report_gap(gap: Gap) -> timedelta:
    """Return something, which nobody looks at."""
    assert_type(gap.channels, frozenset[str])
    return gap.until - gap.since


def report_state(change: StateChange) -> None:
    """Be called with each change of the state."""
    print(change.state, change.since, change.why)


def choose_database() -> dict[str, Any]:
    """Return parameters of libpq."""
    return {"dbname": "shop", "port": 5432}


Notifier({"dbname": "shop", "port": "5432"})
Notifier("postgresql://localhost/shop", wait=True)
Notifier(choose_database, wait=60)
Notifier(None)
notifier = Notifier(
    "dbname=shop",
    dispatcher=ThreadDispatcher(4, ordered=False, max_pending=100),
    autorun=False,
    daemon=True,
    decoder=str.upper,
    on_error=report_error,
    on_gap=report_gap,
    on_state=report_state,
    heartbeat=15,
    heartbeat_timeout=2.5,
    buffer_size=1_000,
    buffer_bytes=2**20,
    overflow="drop_oldest",
    standby="shop",
    health_port=8080,
    health_host="0.0.0.0",
)


class Counter:
    """A callback with a state."""

    def __call__(self, id: Hashable, channel: str, payload: Any, pid: int) -> int:
        """Count."""
        return 1


@notifier.on("orders")
def count(id: str, channel: str, payload: dict[str, Any], pid: int) -> str:
    """Name the types that this channel's payloads have."""
    return channel


@notifier.on(["stock", "prices"], id=("shop", 1), batch=(500, 2.0))
def index(id: Hashable, channel: str, payload: list[Any], pid: int) -> None:
    """Take batches."""


def stream() -> Iterator[str]:
    """Yield names of channels."""
    yield "orders"


assert_type(count("count", "orders", {}, 1), str)  # the decorator keeps the function's type
notifier.add_channels("orders")
notifier.add_channels(stream(), autorun=False)
notifier.remove_channels(("orders", "stock"))
notifier.subscribe("count", "orders", Counter())
notifier.subscribe(1, "orders", lambda *_: None, False)
notifier.subscribe(
    "stock",
    "stock",
    print,
    dispatcher=InlineDispatcher(),
    debounce=(0.5, 3),
    key=lambda payload: (payload["id"], "stock"),
    on_gap=print,
    any_option_of_the_dispatcher=1,
)
notifier.mute_subscriber("stock", "orders")
notifier.unmute_channels()
notifier.notify("orders", {"total": Decimal("9.50"), "at": datetime.now().astimezone()})
notifier.notify("orders", object(), encoder=repr)

assert_type(notifier.get_channels(), set[str])
assert_type(notifier.stop(timeout=30), int)
assert_type(notifier.wait(1.5), bool)
assert_type(notifier.is_running(), bool)
assert_type(notifier.status(), Status)
assert_type(notifier.status().to_dict(), Mapping[str, Any])

with notifier as entered:
    assert_type(entered, Notifier)

try:
    notifier.restart()
except PgNotifierError as error:
    print(error)


class PrintingDispatcher(Dispatcher):
    """A dispatcher of the user's own."""

    starts_listener = False

    def bind(self, subscription: Subscription) -> str:
        """Return a target."""
        return f"{subscription.id} {subscription.options}"

    def dispatch(self, batch: Any) -> None:
        """Deliver a batch."""
        first: Delivery = batch[0]
        print(first.binding.target, first.notification.payload)


Notifier(None, dispatcher=PrintingDispatcher())
