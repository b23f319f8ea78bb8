"""Objects that are renewed in a forked child."""

import os

import pytest

from pgnotifier._runtime.process import renew_in_children

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


class Renewed:
    """Records, in a child, that it was renewed."""

    order: list[str] = []  # noqa: RUF012 - each process has its own

    def __init__(self, name):
        self.name = name
        renew_in_children(self)

    def renew(self):
        """Record the name."""
        self.order.append(self.name)


def test_a_child_renews_in_order():
    """A child renews the existing objects in the order of registration; the parent renews none."""
    first, second = Renewed("first"), Renewed("second")
    Renewed("gone")
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(write, " ".join(Renewed.order).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as child:
        assert child.read() == "first second"
    assert os.waitpid(pid, 0)[1] == 0
    assert Renewed.order == []
    assert (first.name, second.name) == ("first", "second")
