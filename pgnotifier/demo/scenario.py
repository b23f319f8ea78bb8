"""Play the demo: send notifications, cut the listener's session, and wait for the tasks."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pgnotifier.demo.accounting import Account, Execution, ReportedGap, Result, Sent
from pgnotifier.demo.stage import Stage
from pgnotifier.demo.view import View

FIRST_TRY = (
    '"WARNING: Something really bad happened"',
    '{"topic": "abc", "data": "some data", "something": "else"}',
    '{"topic": "xyz", "notice": "update", "data": [2, "stuff"]}',
    "[1,2,3,4,5]",
)
FIRST_TRY_PAUSE = 0.4  # seconds
ITEMS = ("tea", "cake", "milk", "honey", "bread", "plums")
ORDERS_A_SECOND = 10
ORDERS_IN_THE_CUT = 4
"""How many orders to place and pay right after the cut, so that something is missed."""
PATIENCE = 6.0
"""If no task runs for so many seconds, missing notifications count as lost."""
LIMIT = 25.0
"""Maximum seconds to wait for tasks, even if some still run."""
QUIET = 0.5
"""Seconds to wait for tasks that run twice, after each has run once."""
LOOK_EVERY = 0.01
CHECK_EVERY = 0.25

Act = Callable[[], None]


class Scenario:
    """Sends notifications on a stage, shows everything in a view, and keeps the account."""

    def __init__(self, stage: Stage, view: View, planned: int) -> None:
        self.account = Account()
        self._planned = planned  # orders, without those in the cut
        self._stage = stage
        self._view = view
        self._orders = 0
        self._check_at = 0.0
        self._ran_at = 0.0

    def play(self) -> Result:
        """Send everything, wait for the tasks, and return the result.

        Raises:
            DemoError: A process or a server has ended.
        """
        self._view.begin(self.account, len(FIRST_TRY) + 2 * (self._planned + ORDERS_IN_THE_CUT))
        begun = time.monotonic()
        for at, act in self._plan():
            self.watch(begun + at)
            act()
        self._ran_at = time.monotonic()
        self.watch(time.monotonic() + LIMIT, self._is_settled)
        self.watch(time.monotonic() + QUIET)
        result = self.account.settle()
        self._view.end(result)
        return result

    def watch(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Account for what happens, and show it.

        Args:
            until: When to return, by `time.monotonic()`.
            done: Returns whether to return earlier.
        """
        while True:
            for record in self._stage.records.read():
                self._take(record)
            self._view.update()
            if time.monotonic() > self._check_at:
                self._check_at = time.monotonic() + CHECK_EVERY
                self._stage.check()
            left = until - time.monotonic()
            if left <= 0 or done():
                return
            time.sleep(min(left, LOOK_EVERY))

    def _plan(self) -> Iterator[tuple[float, Act]]:
        """Yield what to do, and after how many seconds since the beginning."""
        at = 0.0
        for text in FIRST_TRY:
            at += FIRST_TRY_PAUSE
            yield at, partial(self._notify, text)
        for number in range(self._planned):
            at += 1 / ORDERS_A_SECOND
            yield at - 0.5 / ORDERS_A_SECOND, self._order
            yield at, self._pay
            if number == self._planned // 2:
                yield at, self._cut

    def _notify(self, text: str) -> None:
        self._send("ch1", "SELECT %s FROM pg_catalog.pg_notify('ch1', %s)", (text, text))

    def _order(self) -> None:
        self._orders += 1
        item, amount = ITEMS[self._orders % len(ITEMS)], 1 + self._orders % 3
        # The trigger notifies with the same text.
        insert = "INSERT INTO orders (item, amount) VALUES (%s, %s) "
        self._send("orders", insert + "RETURNING row_to_json(orders)::text", (item, amount))

    def _pay(self) -> None:
        # The trigger publishes the same text.
        update = "UPDATE orders SET paid = true WHERE id = (SELECT max(id) FROM orders) "
        self._send("paid", update + "RETURNING row_to_json(orders)::text", (), durable=True)

    def _send(
        self, channel: str, query: str, values: tuple[object, ...], *, durable: bool = False
    ) -> None:
        begun_at = time.time()
        row = self._stage.connection.execute(query.encode(), values).fetchone()
        assert row is not None
        sent = Sent(channel, row[0], begun_at, time.time(), durable)
        self.account.sent[sent.key] = sent
        self._view.sent(sent)

    def _cut(self) -> None:
        self.account.cut_at = time.time()
        self._stage.cut_sessions()
        self._view.cut()
        for _ in range(ORDERS_IN_THE_CUT):
            self._order()
            self._pay()

    def _take(self, record: dict[str, Any]) -> None:
        kind = record.pop("kind")
        if kind == "executed":
            execution = Execution(**record)
            self._ran_at = time.monotonic()
            self.account.executions[execution.key].append(execution)
            self._view.executed(execution, self.account.sent.get(execution.key))
        elif kind == "gap":
            gap = ReportedGap(record["since"], record["until"], record["reason"])
            self.account.gaps.append(gap)
            self._view.reconnected(gap)

    def _is_settled(self) -> bool:
        if time.monotonic() > self._ran_at + PATIENCE:
            return True
        return bool(self.account.gaps) and not self.account.find_unexplained()
