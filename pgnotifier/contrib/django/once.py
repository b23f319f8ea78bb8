"""Do something exactly once per id, in a Django transaction."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections

from pgnotifier.once import once as once_on


@contextmanager
def once(id: str, using: str = DEFAULT_DB_ALIAS) -> Iterator[Any]:
    """Open `atomic()` for what is to be done once under an id, and yield the connection.

        with suppress(AlreadyDoneError), once(task_id):
            Invoice.objects.create(...)

    Args:
        id: A text that is the same for each try, such as the id of a task: up to 1 kB.
        using: An alias of DATABASES.

    Raises:
        AlreadyDoneError: It has been done already. The block doesn't begin.
        PgNotifierError: As for `pgnotifier.once.once`.
    """
    with once_on(connections[using], id) as connection:
        yield connection
