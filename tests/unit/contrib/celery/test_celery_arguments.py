"""How arguments are carried in a message."""

import ast
import contextlib
import math
import pickle
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import serialization
from kombu.utils import json as kombu_json

from pgnotifier.contrib.celery.arguments import (
    RAW,
    Exact,
    show_id,
    wrap_exact,
    wrap_payload,
)
from pgnotifier.dispatchers.carrying import unwrap
from pgnotifier.notification import Notification
from pgnotifier.payload import decode, encode

text = st.text(st.characters(exclude_categories=[]))  # lone surrogates included
keys = st.none() | st.booleans() | st.integers() | text | st.binary()
real = keys | st.floats(allow_nan=False) | st.just(...)
scalars = real | st.complex_numbers(allow_nan=False)
decimals = st.decimals(allow_nan=False)
values = st.recursive(
    scalars | decimals,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.sets(keys)
        | st.frozensets(keys)
        | st.dictionaries(keys | st.tuples(keys, keys), inner)
        | st.dictionaries(st.sampled_from(["__type__", "__value__", RAW]), inner)
    ),
)
literals = st.recursive(
    real,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.sets(keys)
        | st.dictionaries(keys | st.tuples(keys, keys), inner)
        | st.dictionaries(st.sampled_from(["__type__", "__value__", RAW]), inner)
    ),
)


def same(one, other):
    """Return whether two values are equal, and of the same types at every level."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(a, b) and same(x, y)
            for (a, x), (b, y) in zip(one.items(), other.items(), strict=True)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set | frozenset):
        return one == other and sorted(map(repr, one)) == sorted(map(repr, other))
    if isinstance(one, float):
        return repr(one) == repr(other)
    return one == other and repr(one) == repr(other)


def arrived(payload, raw):
    """Return a notification."""
    return Notification("ch", payload, raw, 7, None)


def through(value, serializer):
    """Send a value through a serializer, as a message does."""
    content_type, encoding, body = serialization.dumps([value], serializer)
    return serialization.loads(body, content_type, encoding, accept=[content_type])[0]


@pytest.mark.slow
@given(values)
def test_any_value_survives_json(value):
    """A user's own task gets any value back, with the same types."""
    assert same(through(wrap_exact(value), "json"), value)


@pytest.mark.slow
@given(literals, st.sampled_from(["json", "msgspec", "pickle"]))
def test_any_payload_survives_any_serializer(value, serializer):
    """A callback in a worker gets the same payload as it would have got inline."""
    raw = encode(value)
    carried = wrap_payload(arrived(decode(raw), raw), serializer)
    assert same(unwrap(through(carried, serializer), decode), decode(raw))


@pytest.mark.slow
@given(st.lists(literals, min_size=1, max_size=5), st.sampled_from(["json", "msgspec", "pickle"]))
def test_any_batch_survives_any_serializer(found, serializer):
    """Each payload of a gathered batch arrives as it would have arrived alone."""
    parts = tuple(arrived(decode(raw), raw) for raw in map(encode, found))
    payloads = [part.payload for part in parts]
    whole = Notification("ch", payloads, parts[-1].raw, 7, None, len(parts), parts)
    carried = wrap_payload(whole, serializer)
    assert same(unwrap(through(carried, serializer), decode), payloads)


@given(
    st.lists(st.decimals(allow_nan=False, allow_infinity=False)),
    st.sampled_from(["json", "msgspec", "pickle"]),
)
def test_any_number_survives_any_serializer(numbers, serializer):
    """A number arrives with all its digits, whether it is a Decimal or a float."""
    raw = f'{{"a": [{", ".join(map(str, numbers))}]}}'
    carried = wrap_payload(arrived(decode(raw), raw), serializer)
    assert same(unwrap(through(carried, serializer), decode), decode(raw))
    assert same(through(wrap_exact(decode(raw)), "json"), decode(raw))


@given(text, st.sampled_from(["json", "msgspec", "pickle"]))
def test_any_text_survives_any_serializer(raw, serializer):
    """The payload made from any text arrives unchanged, whether the text is UTF-8 or not."""
    carried = wrap_payload(arrived(decode(raw), raw), serializer)
    assert same(unwrap(through(carried, serializer), decode), decode(raw))


@pytest.mark.parametrize(
    "raw",
    [
        '{"__type__": "x", "__value__": 1}',
        '{"__type__": "datetime", "__value__": "2026-01-01"}',
        '[1, {"a": {"__value__": [], "__type__": "bytes"}}]',
        '{"__pgnotifier_raw__": "1"}',
    ],
)
def test_no_payload_poisons_a_message(raw):
    """A payload that looks like an envelope of kombu or pgnotifier arrives unchanged."""
    naive = None
    with contextlib.suppress(Exception):
        naive = unwrap(through(decode(raw), "json"), decode)
    assert not same(naive, decode(raw))
    carried = wrap_payload(arrived(decode(raw), raw), "json")
    assert same(unwrap(through(carried, "json"), decode), decode(raw))
    assert same(through(wrap_exact(decode(raw)), "json"), decode(raw))


def test_json_payloads_stay_readable():
    """A value that JSON can carry isn't wrapped, so that monitors show it as it is."""
    value = {"a": [1, 2.5, None, True, "ü"], "b": {"__type__": 1}}
    assert wrap_payload(arrived(value, ""), "json") is value
    assert wrap_exact(value) is value


def test_a_payload_of_the_decoders_own_is_decoded_again():
    """If a custom decoder made the payload, its text is sent, in ASCII, and decoded again."""
    sent = wrap_payload(arrived(math.nan, "not ä number \udcff"), "json")
    assert sent[RAW].isascii()
    assert unwrap(sent, lambda text: ("mine", text)) == ("mine", "not ä number \udcff")


def test_nan_survives_json():
    """NaN arrives as NaN, by itself and within a complex number."""
    assert math.isnan(through(wrap_exact(math.nan), "json"))
    (number,) = through(wrap_exact((complex(math.nan, -0.0),)), "json")
    assert repr(number) == repr(complex(math.nan, -0.0))


def test_other_objects_are_left_to_kombu():
    """Objects that kombu can encode arrive, also within a tuple; other objects can't be sent."""
    assert through(wrap_exact((date(2026, 1, 2), 2)), "json") == (date(2026, 1, 2), 2)
    with pytest.raises(serialization.EncodeError):
        through(wrap_exact((object(),)), "json")


def test_trees_hold_no_objects():
    """The JSON of a wrapped value contains no object except for the wrapper itself."""
    encoded = kombu_json.dumps(Exact({1: {"__type__": 1, "__value__": {2: 3}}}))
    assert encoded.count("{") == 1


def test_exact_shows_as_its_value():
    """An `Exact` has the repr of its value, so that a monitor shows readable arguments."""
    assert repr([Exact((1, "a"))]) == "[(1, 'a')]"
    assert pickle.loads(pickle.dumps(Exact(1))).value == 1


@given(keys | st.tuples(keys) | st.frozensets(keys))
def test_what_stands_for_an_id_is_text(id):
    """An id is shown in a message as text: a str as it is, any other id as its repr."""
    shown = show_id(id)
    assert shown == id if isinstance(id, str) else shown.isascii()
    if isinstance(id, int | None | bytes):
        assert ast.literal_eval(shown) == id
