"""Bookmarks: when saving a position waits for the disk, and how much is read next."""

from pgnotifier._durable.bookmark import BATCH, UNSYNCED, Bookmark
from pgnotifier._durable.rows import Place

PLACE = Place("5:5:")


class Session:
    """Notes what is saved. Positions have the numbers 1, 2, 3 and so on."""

    def __init__(self):
        self.waits = []
        self.is_elsewhere = False

    def save(self, _sub, known, _channel, _place, _failed, *, waits):
        self.waits.append(waits)
        return None if self.is_elsewhere else known + 1


def save(bookmark, session, *counts, **options):
    """Save a position after so many entries each; return which saves have waited for the disk."""
    before = len(session.waits)
    for count in counts:
        bookmark.save(session, 1, "orders", PLACE, count, **options)
    return session.waits[before:]


def test_a_few_entries_do_not_wait():
    """Some saves of a few entries each don't wait; then one does, and it begins again."""
    bookmark, session = Bookmark(), Session()
    bookmark.move(1)
    assert save(bookmark, session, 1, UNSYNCED, 1, 1) == [True, False, True, False]


def test_a_crash_repeats_a_batch_at_most():
    """What a crash may undo, and the batch under way, are never more than a batch together."""
    bookmark, session = Bookmark(), Session()
    bookmark.move(1)
    unsynced = UNSYNCED  # whoever was there before may have left as many
    for count in (50, 40, 30, 70, 100, 1, 900, 10, 20, 1000, 99, 2):
        count = min(count, bookmark.limit)
        assert unsynced + count <= BATCH
        (waited,) = save(bookmark, session, count)
        unsynced = 0 if waited else unsynced + count


def test_what_others_have_saved():
    """Whoever has moved the position may not have waited, so this one does, the next time."""
    bookmark, session = Bookmark(), Session()
    bookmark.move(1)
    assert save(bookmark, session, 1, 1) == [True, False]
    bookmark.move(7)
    assert bookmark.limit == BATCH - UNSYNCED
    assert save(bookmark, session, 1) == [True]


def test_failures_wait():
    """What has failed is on the disk before the position is behind it; an end waits."""
    bookmark, session = Bookmark(), Session()
    bookmark.move(1)
    save(bookmark, session, 1)
    assert save(bookmark, session, 1, failed=["a failure"]) == [True]
    assert save(bookmark, session, 1, waits=True) == [True]
    assert save(bookmark, session, 0) == [False]


def test_a_position_that_was_moved():
    """If somebody else has moved it, nothing is known."""
    bookmark, session = Bookmark(), Session()
    bookmark.move(1)
    session.is_elsewhere = True
    assert not bookmark.save(session, 1, "orders", PLACE, 1)
    assert bookmark.known is None
    assert bookmark.ahead_of == (None, None)
