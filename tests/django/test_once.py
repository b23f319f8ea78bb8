"""Something is done once in a transaction of Django, and by tasks with such a transaction."""

from contextlib import suppress
from functools import partial

import pytest
from celery import Celery, shared_task
from celery.contrib.django.task import DjangoTask
from django.db import connection, transaction

from pgnotifier.contrib.celery import Once
from pgnotifier.contrib.django import once
from pgnotifier.errors import AlreadyDoneError
from pgnotifier.once import once as once_on
from shop.models import Parcel

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def empty():
    """Forget what was done before."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE pgnotifier.done")


def act():
    """Have an effect."""
    Parcel.objects.create()


@pytest.mark.parametrize("is_open", [False, True])
def test_once(is_open):
    """The block is an `atomic()`, which is committed once, or a savepoint of the one around it."""

    def run():
        for _ in range(2):
            with suppress(AlreadyDoneError), once("a") as same:
                assert same.in_atomic_block
                act()

    if is_open:
        with transaction.atomic():
            run()
    run()
    assert Parcel.objects.count() == 1
    assert not connection.in_atomic_block


def test_what_the_block_raises():
    """An error rolls back the effects and the id."""
    with pytest.raises(ZeroDivisionError), once("a", using="default"):
        act()
        raise ZeroDivisionError
    assert Parcel.objects.count() == 0
    with once_on(connection, "a"):
        act()
    assert Parcel.objects.count() == 1


def test_tasks():
    """A task with an alias has its effects in the `atomic()` of that database."""
    app = Celery("once", set_as_current=False)

    @app.task(bind=True, base=Once, once_using="default", shared=False)
    def work(self):
        with self.once() as same:
            assert same.in_atomic_block
            act()
        return "done"

    assert work.apply(task_id="a").get() == "done"
    assert work.apply(task_id="a").get() is None
    assert Parcel.objects.count() == 1
    work()
    assert Parcel.objects.count() == 2


class ShopOnce(Once):
    """A base of a project's own."""

    once_using = "default"


class Both(Once, DjangoTask):
    """A base of both kinds."""


@pytest.mark.parametrize("base", [Once, ShopOnce, Both])
@pytest.mark.parametrize("is_shared", [False, True])
def test_publishing_on_commit(base, is_shared):
    """Such tasks are published on commit as all tasks of a project are; not after a rollback."""
    app = Celery("once", broker="memory://", set_as_current=False)
    assert issubclass(app.Task, DjangoTask)  # which Celery chooses because this is a project
    app.conf.task_always_eager = True
    done = []
    make = shared_task if is_shared else partial(app.task, shared=False)
    name = f"on-commit-{base.__name__}-{is_shared}"

    @make(bind=True, base=base, name=name)
    def work(self, n):
        done.append((n, self.request.id))

    task = app.tasks[name]
    with suppress(ZeroDivisionError), transaction.atomic():
        task.delay_on_commit(0)
        raise ZeroDivisionError
    with transaction.atomic():
        task.delay_on_commit(1)
        task.apply_async_on_commit((2,), task_id="two")
        assert done == []
    assert [n for n, _ in done] == [1, 2]
    assert done[1][1] == "two"
