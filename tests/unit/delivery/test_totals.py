"""Totals over deliverers that come and go."""

from types import SimpleNamespace

from pgnotifier._delivery.totals import Totals


def made(name, delivered, dropped=0):
    return SimpleNamespace(name=name, delivered=delivered, buffer=SimpleNamespace(dropped=dropped))


def test_dispatchers_of_a_class_are_added_up():
    """Deliverers of the same class count together, and adding some changes no earlier totals."""
    first = Totals().plus([made("A", 1), made("A", 2, 5), made("B", 0)])
    assert first == ({"A": 3, "B": 0}, {"A": 5, "B": 0})
    assert first.plus([made("A", 10)]).delivered == {"A": 13, "B": 0}
    assert first.delivered == {"A": 3, "B": 0}
    assert Totals() == ({}, {})
