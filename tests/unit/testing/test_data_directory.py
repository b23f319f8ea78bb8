"""How data directories are made: by a command, and from the third on by copying."""

import uuid
from contextlib import ExitStack, closing

import pytest

from pgnotifier.testing.data_directory import DataDirectories
from pgnotifier.testing.process import SupervisedProcess

pytestmark = pytest.mark.servers


@pytest.fixture
def make():
    """Yield a function that makes a data directory, and returns its path and its unique id."""
    directories = DataDirectories()
    with ExitStack() as stack:

        def make(kind="18"):
            process = SupervisedProcess(steps=(), unprivileged=True)
            stack.enter_context(closing(process))
            files = f"echo {kind} > data/PG_VERSION; echo {uuid.uuid4()} > data/id"
            directories.make(process, kind, ["sh", "-c", f"umask 077; mkdir data; {files}"])
            return process.directory / "data", (process.directory / "data" / "id").read_text()

        yield make


def test_the_third_is_a_copy(make):
    """From the third on, data directories are copies of the second one of the same kind."""
    first, second, third, fourth = (make()[1] for _ in range(4))
    assert first != second == third == fourth
    assert make("17")[1] not in {first, second}


def test_owner_and_mode(make):
    """A copy belongs to the user that its server runs as, and nobody else can read it."""
    *_, (made, _), (copied, _) = (make() for _ in range(3))
    for name in (".", "PG_VERSION"):
        ours, theirs = ((directory / name).stat() for directory in (copied, made))
        assert (ours.st_uid, ours.st_gid, ours.st_mode) == (
            theirs.st_uid,
            theirs.st_gid,
            theirs.st_mode,
        )


def test_copies_are_independent(make):
    """A change in one copy doesn't appear in the next one."""
    make(), make()
    (copied, _) = make()
    (copied / "id").write_text("changed")
    assert make()[1] != "changed"
