"""Task names that are made from ids."""

import enum
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

import pytest

from pgnotifier import TaskNameError
from pgnotifier.contrib.celery import naming
from pgnotifier.contrib.celery.naming import task_name


class Colour(enum.Enum):
    """A plain enum."""

    RED = 1


class Count(enum.IntEnum):
    """An enum of ints."""

    ONE = 1


@dataclass(frozen=True)
class Tagged:
    """A value with a repr that shows its content."""

    tags: object


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("resize", "p.resize"),
        ("ünïcode id", "p.ünïcode id"),
        (42, "p.42"),
        (True, "p.True"),
        (None, "p.None"),
        (2.5, "p.2.5"),
        (b"x{", "p.b'x{'"),
        ((2, "another_id"), "p.2.another_id"),
        (("a", ("b", None)), "p.a.b.None"),
        ((), "p."),
        (frozenset({"b", "a", 3}), "p.{3,a,b}"),
        (("t", frozenset({("x", "y"), 1})), "p.t.{1,x.y}"),
        (Colour.RED, "p.Colour.RED"),
        (Count.ONE, "p.Count.ONE"),
        (Decimal("1.5"), "p.Decimal('1.5')"),
        (UUID(int=5), "p.UUID('00000000-0000-0000-0000-000000000005')"),
        (Tagged("x"), "p.Tagged(tags='x')"),
        ("at 0x12", "p.at 0x12"),
    ],
)
def test_every_kind_of_id(id, name):
    """A task's name is made from the str or repr of the id; parts are joined with dots."""
    assert task_name("p.", id) == name


@pytest.mark.parametrize("id", [object(), (1, object()), test_every_kind_of_id, threading.Lock()])
def test_an_address_is_not_a_name(id):
    """An id with a repr that shows a memory address is refused, with a way out."""
    with pytest.raises(TaskNameError, match="use a str or a tuple"):
        task_name("p.", id)


def test_an_order_that_changes_is_not_a_name():
    """An id with a repr that depends on the order of hashes is refused."""
    with pytest.raises(TaskNameError, match="not the same in every process"):
        task_name("p.", Tagged(frozenset({"a", "b"})))


def test_a_lone_surrogate_is_not_a_name():
    """A name with a lone surrogate is refused, because no message header can carry it."""
    with pytest.raises(TaskNameError, match="surrogate"):
        task_name("p.", "\ud800")


@pytest.mark.slow
def test_names_hang_on_no_hash_seed():
    """A frozenset has the same name in every process, whatever the hash seed is."""
    code = (
        "import runpy, sys; task_name = runpy.run_path(sys.argv[1])['task_name'];"  # not Celery
        "print(task_name('', frozenset(('abcdefgh'[i:j] for i in range(5) for j in range(8)))))"
    )
    names = {
        subprocess.run(
            [sys.executable, "-c", code, naming.__file__],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(names) == 1
