"""The contract of dispatchers, of the one to Django's tasks."""

import pytest

from pgnotifier.contrib.django.task_dispatcher import TaskDispatcher
from pgnotifier.testing.contract import DispatcherContract


class TestTaskDispatcher(DispatcherContract):
    """With the backend that calls tasks when they are enqueued."""

    @pytest.fixture
    def dispatcher(self, django_db_blocker):
        with django_db_blocker.unblock():
            yield TaskDispatcher()
