"""Turns: when a subscription is read, and when it is left to others."""

import math
from time import monotonic

from pgnotifier._durable.turn import Turn


def test_pausing():
    """It isn't read while it pauses, or is left to others, and is again afterwards."""
    turn = Turn()
    assert turn.has_come
    assert turn.comes_at == math.inf
    turn.pause(60.0)
    assert not turn.has_come
    turn.leave()
    assert turn.comes_at < math.inf
    turn.go_on()
    turn.pause(0.0)
    assert turn.may_lock


def test_pauses_grow():
    """Each pause is longer than the one before, until it goes on."""
    turn, ends = Turn(), []
    for _ in range(6):
        turn.pause()
        ends.append(turn.comes_at)
    turn.go_on()
    assert turn.has_come
    turn.pause()
    assert turn.comes_at < max(ends)


def test_another_replica():
    """While another replica has it, it is looked at now and then, or when that is asked for."""
    turn = Turn()
    turn.note(is_elsewhere=True)
    assert turn.is_elsewhere
    assert not turn.may_lock
    turn.look_again()
    assert turn.may_lock
    turn.note(is_elsewhere=False)
    assert not turn.is_elsewhere
    assert turn.may_lock


def test_when_it_begins():
    """A pause holds in any case; another replica, unless this session has it."""
    turn = Turn()
    assert turn.begins_at(is_held=False) == -math.inf
    turn.note(is_elsewhere=True)
    assert turn.begins_at(is_held=False) > monotonic()
    assert turn.begins_at(is_held=True) == -math.inf
    turn.pause(60.0)
    assert turn.begins_at(is_held=True) > monotonic() + 50


def test_an_entry_that_holds_it_up(monkeypatch):
    """While an entry holds it up, it is looked at once a second, in case it was moved."""
    now = monotonic()
    monkeypatch.setattr("pgnotifier._durable.turn.monotonic", lambda: now)
    turn = Turn()
    turn.hold_up(60.0)
    assert turn.is_held_up
    assert not turn.looks_for_a_move
    assert turn.comes_at == now + 1.0
    now += 1.5
    assert turn.looks_for_a_move
    assert turn.comes_at == now
    turn.note_look()
    assert not turn.looks_for_a_move
    assert turn.comes_at == now + 1.0
    now += 60.0
    assert not turn.is_held_up
    assert turn.has_come
    turn.hold_up(60.0)
    turn.go_on()
    assert not turn.is_held_up
    assert turn.has_come
    turn.hold_up(60.0)
    turn.pause(60.0)
    assert not turn.is_held_up
