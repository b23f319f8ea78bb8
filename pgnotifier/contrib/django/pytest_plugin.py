"""Provide pytest fixtures for projects with pytest-django.

Enable them with `pytest_plugins = ["pgnotifier.contrib.django.pytest_plugin"]` in conftest.py.

| fixture | provides |
|---|---|
| `capture_notifications` | `captureNotifications`, in the test's transaction |
| `live_notifications` | a running listener; transactions commit, and the tables are flushed later |
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from pgnotifier.notification import Notification


@pytest.fixture
def capture_notifications(
    db: None,
) -> Callable[..., AbstractContextManager[list[Notification]]]:
    """Return `captureNotifications`."""
    from pgnotifier.contrib.django.test import captureNotifications

    return captureNotifications


@pytest.fixture
def live_notifications(transactional_db: None) -> Iterator[Any]:
    """Yield the result of `liveNotifications`, with a listener that runs for the whole test."""
    from pgnotifier.contrib.django.test import liveNotifications

    with liveNotifications() as live:
        yield live
