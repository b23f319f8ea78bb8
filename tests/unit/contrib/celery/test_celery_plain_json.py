"""The JSON of plain values is that of kombu."""

from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.json import dumps

from pgnotifier.contrib.celery.argsrepr import is_plain
from pgnotifier.contrib.celery.plain_json import dump_plain

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS, inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(VALUES, max_size=4).map(tuple) | st.dictionaries(st.text(), VALUES, max_size=4))
def test_plain_values_are_written_as_by_kombu(value):
    """`dump_plain` returns the same text as kombu's `dumps`."""
    assert is_plain(value, 20)
    assert dump_plain(value) == dumps(value)
