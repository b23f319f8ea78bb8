"""The helpers for projects' tests, in the kinds of test case that they are made for."""

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.db.utils import ProgrammingError
from django.test import TestCase, TransactionTestCase

from pgnotifier.contrib.django import Channel
from pgnotifier.contrib.django.test import captureNotifications, liveNotifications
from shop.models import Order, orders


class CaptureTests(TestCase):
    """`captureNotifications` in a transaction that never commits."""

    def test_what_is_sent(self):
        """What Python, triggers and SQL send is captured in order, and duplicates once."""
        with captureNotifications() as sent:
            orders.notify("one")
            orders.notify("one")
            Order.objects.create(item="tea")
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_notify('other', NULL)")
        assert [one.channel for one in sent] == ["orders", "orders", "other"]
        first, second, third = (one.payload for one in sent)
        assert (first, second["operation"], third) == ("one", "insert", "")

    def test_only_some_channels(self):
        """`channels` limits the capture to some channels, given by name or as objects."""
        with captureNotifications(channels=[orders, "third"]) as sent:
            for name in ("other", "orders", "third"):
                Channel(name).notify(name)
        assert [one.payload for one in sent] == ["orders", "third"]
        for name in ("other", "third"):
            Channel.known.pop(name, None)

    def test_what_is_rolled_back(self):
        """A notification that is rolled back isn't captured."""
        with captureNotifications() as sent:
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                orders.notify("lost")
                1 / 0  # noqa: B018
            orders.notify("kept")
        assert [one.payload for one in sent] == ["kept"]

    def test_nothing_is_left(self):
        """After the block, the search path is restored, and the schema is dropped."""
        with connection.cursor() as cursor:
            cursor.execute("SHOW search_path")
            before = cursor.fetchone()
            for _ in range(2):
                with captureNotifications():
                    orders.notify(1)
            cursor.execute("SHOW search_path")
            assert cursor.fetchone() == before
            cursor.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgnotifier_capture'")
            assert cursor.fetchone() == (0,)

    def test_what_is_found_within_the_block(self):
        """A capture doesn't change which functions the search path finds."""
        with connection.cursor() as cursor:
            cursor.execute("CREATE FUNCTION public.upper(text) RETURNS text RETURN 'trapped'")
            for path in ("public", "public, pg_catalog"):
                cursor.execute(f"SET LOCAL search_path = {path}")
                cursor.execute("SELECT upper('a'::pg_catalog.text)")
                before = cursor.fetchone()
                with captureNotifications() as sent:
                    cursor.execute("SELECT upper('a'::pg_catalog.text)")
                    assert cursor.fetchone() == before
                    cursor.execute("SELECT pg_notify('other', '')")
                assert len(sent) == 1

    def test_an_error_in_the_block(self):
        """An error in the block is raised as it is, even if the transaction is broken."""
        with pytest.raises(ZeroDivisionError), captureNotifications():
            1 / 0  # noqa: B018
        with (
            pytest.raises(ProgrammingError),
            transaction.atomic(),
            captureNotifications(),
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT no_such_column")

    def test_executed(self):
        """With `execute=True`, receivers are called at the end, and their errors are raised."""
        seen = []

        def bad(payload, **_):
            seen.append(payload)
            raise ValueError("bad")

        orders.connect(bad)
        try:
            with pytest.raises(ValueError, match="bad"), captureNotifications(execute=True):
                orders.notify(1)
                assert seen == []
        finally:
            orders.disconnect(bad)
        assert seen == [1]


class LiveTests(TransactionTestCase):
    """`liveNotifications` with transactions that commit, and a real listener."""

    def test_receivers_are_called(self):
        """The listener calls receivers, and `wait_for` returns what arrived."""
        seen = []
        orders.connect(take := lambda payload, **_: seen.append(payload))
        try:
            with liveNotifications() as live:
                Order.objects.create(item="tea")
                orders.notify("second")
                first, second = live.wait_for(2)
        finally:
            orders.disconnect(take)
        assert first.payload["operation"] == "insert"
        assert second.payload == "second"
        assert seen == [first.payload, "second"]

    def test_errors_of_receivers(self):
        """A receiver's error is raised by `wait_for`, and fails the test."""

        def bad(**_):
            raise ValueError("bad")

        orders.connect(bad)
        try:
            with liveNotifications() as live:
                orders.notify(1)
                with pytest.raises(ValueError, match="bad"):
                    live.wait_for(1)
        finally:
            orders.disconnect(bad)

    def test_too_few(self):
        """If too few notifications arrive, `wait_for` fails and shows those that did."""
        with liveNotifications() as live:
            orders.notify("only")
            live.wait_for(1)
            with pytest.raises(AssertionError, match=r"1 of 2 notifications.*only"):
                live.wait_for(2, timeout=0.1)

    def test_capturing_needs_a_transaction(self):
        """Capturing without a transaction is an error that suggests `liveNotifications`."""
        with pytest.raises(ImproperlyConfigured, match="liveNotifications"), captureNotifications():
            pass


def test_the_fixture_for_capturing(capture_notifications):
    """The fixture `capture_notifications` captures in the test's transaction."""
    with capture_notifications() as sent:
        orders.notify(1)
    assert [one.payload for one in sent] == [1]
