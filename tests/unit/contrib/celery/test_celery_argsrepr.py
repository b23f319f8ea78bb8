"""Stamped messages show their arguments as Celery does."""

from celery.utils.saferepr import saferepr
from hypothesis import given
from hypothesis import strategies as st

from pgnotifier.contrib.celery.argsrepr import show_arguments

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=40)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=5)
        | st.tuples(inner, inner)
        | st.frozensets(st.integers(), max_size=3)
    ),
    max_leaves=12,
)


@given(
    st.lists(VALUES, max_size=5) | st.tuples(VALUES, VALUES, VALUES, VALUES),
    st.integers(0, 300) | st.just(1024),
    st.integers(0, 4),
)
def test_arguments_are_shown_as_celery_does(arguments, size, levels):
    """`show_arguments` returns the same text as Celery's `saferepr`."""
    assert show_arguments(arguments, size, levels) == saferepr(arguments, size, maxlevels=levels)
