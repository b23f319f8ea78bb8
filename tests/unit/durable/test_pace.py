"""The pace: when a position is saved, and when that can wait."""

from time import monotonic

from pgnotifier._durable.pace import IDLE_SAVE_PAUSE, QUIET_SAVE_PAUSE, SAVE_PAUSE, Pace


def test_a_batch():
    """A part of it is saved after a second; all of it as soon as it may be."""
    pace, now = Pace(), monotonic()
    assert pace.idle_at < now
    pace.begin(0.5)
    assert now + 0.5 <= pace.whole_at <= monotonic() + 0.5
    assert now + SAVE_PAUSE <= pace.part_at <= monotonic() + SAVE_PAUSE


def test_idle():
    """That there is nothing is saved now and then, rarely if nothing is published."""
    paces, now = [Pace() for _ in range(50)], monotonic()
    for pauses, is_quiet in ((IDLE_SAVE_PAUSE, False), (QUIET_SAVE_PAUSE, True)):
        for pace in paces:
            pace.note_saved()
            pace.note_idle(is_quiet=is_quiet)
        times = sorted(pace.idle_at - now for pace in paces)
        assert pauses / 2 < times[0] < times[-1] < pauses + 5
        assert times[-1] - times[0] > pauses / 10


def test_something_is_published_after_a_quiet_time():
    """Positions are saved within ten seconds then, as they keep space, but not all at once."""
    paces = [Pace() for _ in range(50)]
    for pace in paces:
        pace.note_idle(is_quiet=True)
        pace.note_idle(is_quiet=False)
    times = sorted(pace.idle_at - monotonic() for pace in paces)
    assert times[-1] <= IDLE_SAVE_PAUSE
    assert times[-1] - times[0] > IDLE_SAVE_PAUSE / 3
