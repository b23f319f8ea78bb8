"""The contract of dispatchers, for the one to Django's tasks."""

import pytest

from pgnotifier.contrib.django.task_dispatcher import TaskDispatcher
from pgnotifier.testing.contract import DispatcherContract, first, second


class TestTaskDispatcher(DispatcherContract):
    """The contract, with the backend that calls tasks when they are enqueued."""

    @pytest.fixture
    def dispatcher(self, django_db_blocker):
        with django_db_blocker.unblock():
            yield TaskDispatcher()

    def test_a_batch_with_payloads_that_no_text_decodes_to(self, notifier, send, errors):
        """Payloads that can't be serialized are reported; the rest of the batch arrives."""
        notifier.decoder = lambda text: object() if text == "bad" else (text, 1)
        notifier.subscribe("a", "a", first, batch=(4, 60))
        notifier.subscribe("b", "a", second)
        notifier.start()
        send("a", "1", "bad", "two", "3")
        found = self.wait_for(4)
        assert {(call.name, str(call.payload)) for call in found} == {
            ("first", "[('1', 1), ('two', 1), ('3', 1)]"),
            *(("second", f"('{text}', 1)") for text in ("1", "two", "3")),
        }
        assert ["type object at payload" in str(exc) for exc in errors] == [True, True]

    def test_what_no_text_decodes_to_is_reported_once(
        self, notifier, dispatcher, send, errors, monkeypatch
    ):
        """An unserializable payload is reported once, even if the rest of the batch is retried."""
        enqueue, down = dispatcher._enqueue, [ConnectionError("down")]

        def enqueue_later(*arguments):
            if down:
                raise down.pop()
            enqueue(*arguments)

        monkeypatch.setattr(dispatcher, "_enqueue", enqueue_later)
        notifier.decoder = lambda text: object() if text == "bad" else text
        notifier.subscribe("a", "a", first, batch=(3, 60))
        notifier.start()
        send("a", "1", "bad", "2")
        (call,) = self.wait_for(1)
        assert call.payload == ["1", "2"]
        assert ["type object at payload" in str(exc) for exc in errors] == [True]
