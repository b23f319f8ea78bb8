"""Decoding and encoding, from plain examples to values that hypothesis generates."""

import ast
import contextlib
import json
import math
import subprocess
import sys
import threading
import time
import warnings
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as clock
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgnotifier import payload
from pgnotifier.errors import ArgumentTypeError, PayloadEncodingError
from pgnotifier.payload import decode_bytes, encode, encode_exactly, exact_json

INF = math.inf
BIG = 10**4300 - 1


def decode(text):
    """Decode a text; fail if that warns, because `decode` would catch warnings that are errors."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = payload.decode(text)
        with contextlib.suppress(UnicodeEncodeError):
            assert typed(decode_bytes(text.encode("utf-8", "surrogateescape"))) == typed(value)
    assert not caught
    return value


def typed(value):
    """Return a value that is equal only if types and signs of zeros are equal, too."""
    match value:
        case float() | Decimal():
            return type(value), repr(value)
        case list() | tuple():
            return type(value), [typed(item) for item in value]
        case set():
            return set, {(type(item), repr(item)) for item in value}
        case dict():
            return dict, [(typed(key), typed(item)) for key, item in value.items()]
        case _:
            return type(value), value


def name(value):
    """Return a short id for a parameter; some can't be printed."""
    return ascii(value[:30]) if isinstance(value, str) else type(value).__name__


# --- What a text decodes to -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(('{"a": true}', {"a": True}), (' [1, null, "x"]\n', [1, None, "x"]), ('"text"', "text")),
        *(("42", 42), ("-0", 0), ("-0.0", -0.0), ("1e5", 1e5), ('{"a": 1, "a": 2}', {"a": 2})),
        # Numbers: floats that have the same digits, or else decimals
        *(("0.1", 0.1), ("1.10", 1.1), ("-0e5", -0.0), ("0e99999999999999999999", 0.0)),
        *((t, Decimal(t)) for t in ("12345678901234567.89", "-0.10000000000000000001", "1e999")),
        *((t, Decimal(t)) for t in ("1E-400", "9007199254740993.0", "4.9e-324", "1e+7999")),
        *(("5e-324", 5e-324), ("0.30000000000000004", 0.1 + 0.2), ("1E22", 1e22), ("1e023", 1e23)),
        *(("123456789012345678", 123456789012345678), ("123456789.00000000", 123456789.0)),
        ('{"a": [1e999, true]}', {"a": [Decimal("1e999"), True]}),
        ("[" + "1.50, " * 200 + "-1e999, 0.1]", [*[1.5] * 200, Decimal("-1e999"), 0.1]),
        ("[" + "1.50, " * 200 + "1e5]", [*[1.5] * 200, 1e5]),
        ("[" + "1.50, " * 200 + "1E5]", [*[1.5] * 200, 1e5]),
        (f"[{'1.5,' * 200}123456789012345678.5]", [*[1.5] * 200, Decimal("123456789012345678.5")]),
        (f"[{'1.5,' * 200}0.{'1' * 7000}]", [*[1.5] * 200, Decimal(f"0.{'1' * 7000}")]),
        (r'["\ud800", 12345678901234567.89]', ["\ud800", Decimal("12345678901234567.89")]),
        *(("(12345678901234567.89,)", (12345678901234567.89,)), ("[1.e999]", [INF])),
        # JSON that msgspec refuses
        *((r'["\ud800", null]', ["\ud800", None]), ('["caf\udce9", true]', ["caf\udce9", True])),
        (f"[-{BIG}, {BIG}]", [-BIG, BIG]),
        # As deeply nested as is allowed, or looking deeper than it is
        ("[" * 200 + "]" * 200, json.loads("[" * 200 + "]" * 200)),
        (json.dumps([{'"[': ["\\", None]}] * 300), [{'"[': ["\\", None]}] * 300),
        ("(" * 50 + ")" * 50, ()),
        (str(["[", b"x"] * 60), ["[", b"x"] * 60),
        # Python literals
        *(("{1, 2}", {1, 2}), ("set()", set()), ("b'x'", b"x"), ("(1, 2)", (1, 2)), ("None", None)),
        *(("[True, ...]", [True, ...]), ("{'a': (1,), 2: {}}", {"a": (1,), 2: {}})),
        *(("-1 - 2j", -1 - 2j), ("(1)+2j", 1 + 2j), ("0x" + "f" * 3571, 16**3571 - 1)),
        *((r"'\x41\101\u0041\N{BULLET}\\'", "AAA\u2022\\"), (r"rb'\d'", b"\\d")),
        *(("u'x' '''y\n'z'''", "xy\n'z"), ("(1,  # one\n 2)", (1, 2)), ("42 # retry", 42)),
        *((" 1_000", 1000), ("2024_01_15", 20240115)),
    ],
    ids=name,
)
def test_a_value_arrives_as_what_its_text_looks_like(text, value):
    """A text is decoded as JSON if possible, or else as a Python literal."""
    assert typed(decode(text)) == typed(value)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "hello world", " padded ", "42 apples", "user_123", "None of it", "settle"),
        *("550e8400-e29b-41d4-a716-446655440000", "2024-01-15", "2024-10-15T12:00:00Z", "01234"),
        *(
            "nan",
            "inf",
            "NaN",
            "[1e999, NaN]",
            "[-Infinity]",
            "f'x'",
            "1-2",
            "--1",
            "1 if 2 else 3",
        ),
        *("{[]}", "{**{1: 2}}", "[1][0]", "set([1])", "(1 2)", "#", "'a' b'b'", "[True, true]"),
        # Texts that the compiler would warn of, or can't read
        *(r'"\d"', r"'\400'", r"b'\u0041'", "0x1for x", "1if 2else 3", "1jif 2else 3"),
        *("\ufeff1", "1\x00", "'\x00'", "'\ud800'", "b'\xe9'", r"'\N{NO SUCH NAME}'"),
        *("1" * 4301, "[" + "1" * 4301 + "]", "(" * 51 + "1," + ")" * 51),
        # Numbers that would fill the memory if they were converted to an int
        *("1e8001", "-1E+999999999", "[1e-99999999999999999999]", f"[{'1.5,' * 200}1e9000]"),
        *("0x" + "f" * 3572, "0o" + "7" * 4762, "0b" + "1" * 14285),
    ],
    ids=name,
)
def test_what_looks_like_no_value_is_text(text):
    """A text that isn't a value is returned unchanged, including its blanks."""
    assert decode(text) == text


HOSTILE = [
    *("[" * 8000, "{" * 8000, "(" * 8000, '{"a":' * 1600, "[" * 4000 + "]" * 4000),
    *("-" * 7990 + "1", "1" + "+1" * 3999, "1" + "+1j" * 2600, "(1)+" * 1900 + "1j", "-(" * 3990),
    *("(" * 4000 + ")" * 4000, "(" * 2600 + "1" + ",)" * 2600, "{1:" * 1900 + "1" + "}" * 1900),
    *("[1]" * 2600, "()" * 4000, "'a'" * 2600, "set()" * 1600, "(" * 50 + "1 1" + ")" * 50),
    *("'" * 7999, "'" + r"\123" * 1900, '"' + r"\ud800" * 1300, "#" * 7999, "#\n" * 3999),
    *("0" * 7998 + "_x", "1_" * 3999, " " * 7998 + "x", ", -1j" * 1500 + "x", "\\\n" * 3999),
    *("\x00" * 7999, "\ud800" * 2600, "." * 7999, "lambda:" * 1100, "not " * 1900 + "1"),
]


def test_hostile_text_is_decoded_in_linear_time():
    """A text that is hard to parse doesn't raise, warn or take long."""
    for text in HOSTILE:
        start = time.thread_time()  # not counting other processes
        decode(text)
        assert time.thread_time() - start < 1, text[:20]


SMALL_STACKS = """
import json, sys, threading
from pgnotifier.payload import decode
texts = json.load(sys.stdin)
decoded = []
threading.stack_size(256 * 1024)
threads = [threading.Thread(target=lambda: decoded.extend(map(decode, texts))) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
sys.exit(len(decoded) != 4 * len(texts))
"""


@pytest.mark.slow
def test_hostile_text_does_not_overflow_a_small_stack():
    """Any depth of nesting can be decoded in a thread with half of macOS's stack."""
    texts = list(HOSTILE)
    for depth in (40, 50, 60, 150, 200, 250, 600, 1300):
        for opening, closing in ("[]", "()", ("{1:", "}"), ('{"a":', "}"), ("-(", ")")):
            texts.append(opening * depth + "1" + closing * depth)
    command = [sys.executable, "-W", "always", "-c", SMALL_STACKS]
    run = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_many_threads_decode_at_once():
    """Threads that decode at once don't mix up texts, and don't change the warning filters."""
    wrong = []

    def work(number):
        for i in range(200):
            pairs = [(f"({number}, {i})", (number, i)), (f"[{i}]", [i]), (rf"'\d{i}'", rf"'\d{i}'")]
            wrong.extend(text for text, value in pairs if payload.decode(text) != value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    filters = list(warnings.filters)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert warnings.filters == filters


def test_threads_that_disturb_each_other(monkeypatch):
    """If the parser fails because another thread is parsing, it is called again."""
    failures, literal_eval = [SystemError("recursion depth mismatch")] * 3, ast.literal_eval

    def disturbed(text):
        if failures:
            raise failures.pop()
        return literal_eval(text)

    monkeypatch.setattr(ast, "literal_eval", disturbed)
    assert payload.decode("(1, 2)") == (1, 2)
    assert not failures


# --- What a value is sent as ----------------------------------------------------------------


class Point(NamedTuple):  # noqa: D101
    x: int
    y: int


@dataclass(frozen=True)
class Item:  # noqa: D101
    id: int
    due: Any


Loud = type("Loud", (str,), {"__hash__": str.__hash__, "__eq__": object.__eq__})
Level = IntEnum("Level", "LOW HIGH")
Color = Enum("Color", {"RED": "red"}, type=str)
Mood = Enum("Mood", {"GOOD": "good", "BOTH": ("good", 1), "NESTED": [date(2026, 1, 2)]})
KNOT: list = []
KNOT.append(KNOT)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *(("hello", "hello"), ("", ""), ("Zoë", "Zoë"), (r"'\d'", r"'\d'"), ("NaN", "NaN")),
        *(("123", '"123"'), ("null", '"null"'), ("(1, 2)", '"(1, 2)"'), ("a\0b", r'"a\u0000b"')),
        *((None, "null"), (True, "true"), (1.0, "1.0"), (-0.0, "-0.0"), (BIG, str(BIG))),
        *(({"é": [1, "\0"]}, r'{"é":[1,"\u0000"]}'), ([], "[]"), ({}, "{}")),
        *(((1,), "(1,)"), ((), "()"), (set(), "set()"), ({"a": {1}}, "{'a':{1}}")),
        *((INF, "1.e999"), ([-INF], "[-1.e999]"), (complex(1, -INF), "1.0-1.e999j")),
        *((..., "..."), ([..., INF, 0.1], "[...,1.e999,0.1]")),
        *(({1: ...}, "{1:...}"), ({(1, "x"): b"\0"}, r"{(1,'x'):b'\x00'}")),
        *(("\ud800", r"'\ud800'"), (["'\ud83d\ude00"], r"['\'\ud83d\ude00']")),
        # Subclasses are sent as their base class.
        *((OrderedDict(a=1), '{"a":1}'), (defaultdict(list, {1: []}), "{1:[]}")),
        *((Level.HIGH, "2"), ([Color.RED], '["red"]'), (Color.RED, "red"), (Point(1, 2), "(1,2)")),
    ],
    ids=name,
)
def test_a_value_is_sent_as(value, text):
    """A text is sent as it is, other values as JSON or else as a Python literal, in short form."""
    assert encode(value) == text
    assert decode(text) == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        *((frozenset(), "type frozenset at payload can't"), (bytearray(), "type bytearray")),
        ({"when": [1, frozenset()]}, "type frozenset at payload['when'][1] can't"),
        (
            [clock(1, tzinfo=UTC)],
            "a time with an offset from UTC, but without a date, at payload[0]",
        ),
        *(
            ({Item(1, None): 1}, "becomes a dict or a list at a key of"),
            ({Item(1, None)}, "or a list"),
        ),
        *((Item(1, object()), "type object at payload['due']"), ({Item: 1}, "type type at a key")),
        *(({("a", object()): 1}, "type object at a key of payload["), ({BIG + 1: 1}, "a key of")),
        ({Loud("a"): 1, Loud("a"): 2}, "equal as builtin types"),
        *((math.nan, "nan at payload"), ((complex(0, math.nan),), "nan at payload[0]")),
        *((BIG + 1, "4,300 digits"), ({"k" * 5000: object()}, "convert it to a str")),
        *((KNOT, "contains itself"), (eval("(" * 51 + "1" + ",)" * 51), "nested too deep")),
        *((json.loads(s * 201 + "1" + e * 201), "too deep") for s, e in ("[]", ('{"":', "}"))),
    ],
    ids=name,
)
def test_what_no_payload_carries_is_refused(value, words):
    """The error says what can't be sent and where it is, and is short."""
    with pytest.raises(PayloadEncodingError) as caught:
        encode(value)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


AT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
HALF = timezone(timedelta(hours=5, minutes=30))
ODD = timezone(timedelta(seconds=30))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        # As DjangoJSONEncoder does: see `test_values_are_written_as_django_does` in tests/django.
        *((AT, "2026-01-02T03:04:05.678Z"), (AT.replace(microsecond=0), "2026-01-02T03:04:05Z")),
        *((AT.astimezone(HALF), "2026-01-02T08:34:05.678+05:30"), (AT.date(), "2026-01-02")),
        (datetime(2026, 1, 2, tzinfo=ODD), "2026-01-02T00:00:00+00:00:30"),
        *((clock(3, 4), "03:04:00"), (clock(3, 4, 5, 678901), "03:04:05.678")),
        *(
            (timedelta(days=1, seconds=3661.5), "P1DT01H01M01.500000S"),
            (timedelta(), "P0DT00H00M00S"),
        ),
        (timedelta(microseconds=-1), "-P0DT00H00M00.000001S"),
        *((Decimal("1.50"), '"1.50"'), ([Decimal("NaN")], '["NaN"]')),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        *((Mood.GOOD, "good"), (Mood.BOTH, "('good',1)"), ([Mood.NESTED], '[["2026-01-02"]]')),
        (Item(1, Item(2, AT.date())), '{"id":1,"due":{"id":2,"due":"2026-01-02"}}'),
        # Within literals, and as keys
        (({"at": AT.date()}, Item(1, {2})), "({'at':'2026-01-02'},{'id':1,'due':{2}})"),
        *(({AT.date(): 1}, '{"2026-01-02":1}'), ({Mood.BOTH: 1}, "{('good',1):1}")),
        *(({UUID(int=5): {Mood.GOOD}}, "{'00000000-0000-0000-0000-000000000005':{'good'}}"),),
    ],
    ids=name,
)
def test_what_no_payload_has_a_type_for_is_sent_as(value, text):
    """A value of a type that payloads don't have is sent as a str, dict or Enum value."""
    assert encode(value) == text


class Money:  # noqa: D101
    pass


class MoneyEncoder(json.JSONEncoder):
    """Encodes Money, and dates in its own way."""

    def default(self, o):
        """Return the value to encode instead."""
        if isinstance(o, Money):
            return {"euros": Decimal(5)}
        return str(o) if isinstance(o, date) else super().default(o)


@pytest.mark.parametrize(
    "encoder", [MoneyEncoder, MoneyEncoder().default, lambda o: MoneyEncoder().default(o)]
)
def test_an_encoder_of_ones_own_comes_first(encoder):
    """A custom encoder is called for other types before the built-in conversions."""
    value = {"price": Money(), "at": AT, "id": UUID(int=5), "both": (Money(),)}
    assert decode(encode(value, encoder)) == {
        "price": {"euros": "5"},
        "at": "2026-01-02 03:04:05.678901+00:00",
        "id": str(UUID(int=5)),
        "both": ({"euros": "5"},),
    }
    with pytest.raises(
        PayloadEncodingError, match=r"type Money at payload\['price'\] can't .* encoder="
    ):
        encode(value)
    with pytest.raises(PayloadEncodingError, match=r"type object at payload\[1\]") as caught:
        encode([1, object()], encoder)
    assert isinstance(caught.value.__context__, TypeError)


@pytest.mark.parametrize("encoder", [lambda o: o, lambda o: [o], lambda o: {"more": (o,)}])
def test_an_encoder_that_comes_to_no_end(encoder):
    """An encoder that always returns new objects is refused rather than called forever."""
    with pytest.raises(PayloadEncodingError, match=r"needs over 10 substitutions|nested too deep"):
        encode(Money(), encoder)


def test_what_an_encoder_raises_is_its_own():
    """An exception of an encoder is raised as it is."""
    with pytest.raises(ZeroDivisionError):
        encode(Money(), lambda _: 1 / 0)


@pytest.mark.parametrize("encoder", ["str", 1, MoneyEncoder()])
def test_what_can_be_no_encoder(encoder):
    """An invalid encoder is refused at once, even if it isn't needed for the value."""
    with pytest.raises(
        ArgumentTypeError, match=r"encoder must be a subclass of json\.JSONEncoder, or a"
    ):
        encode(1, encoder)


@pytest.mark.parametrize(
    "value", [AT, [Decimal("1.5")], Decimal(3), Mood.GOOD, Item(1, 1), UUID(int=1)]
)
def test_encode_exactly_puts_nothing_in_place_of_a_value(value):
    """`encode_exactly` refuses values that would arrive as another type."""
    with pytest.raises(PayloadEncodingError):
        encode_exactly(value)


@pytest.mark.parametrize(
    "value",
    [
        *(
            (1,),
            {1: 1},
            INF,
            Decimal(1),
            [Decimal("1e999")],
            BIG + 1,
            "\ud800",
            {"\ud800": 1},
            Level.LOW,
            Color.RED,
            [b""],
            KNOT,
        )
    ],
    ids=name,
)
def test_what_json_changes_is_not_exact_json(value):
    """`exact_json` is False for a value that JSON encoders and decoders would change."""
    assert not exact_json(value)


# --- Properties -----------------------------------------------------------------------------

any_text = st.text(st.characters())  # lone surrogates included
ints = st.integers() | st.sampled_from([BIG, -BIG, 2**64, -(2**63)])
finite = st.floats(allow_nan=False, allow_infinity=False)
# A zero may lose its sign, which a set's repr would show.
no_zero = st.complex_numbers(allow_nan=False).filter(lambda number: number.real and number.imag)
finite_complex = no_zero.filter(lambda number: math.isfinite(abs(number.real) + abs(number.imag)))

json_leaves = st.none() | st.booleans() | ints | finite | any_text
repr_leaves = st.none() | st.booleans() | ints | finite | finite_complex | st.text() | st.binary()
odd_leaves = repr_leaves | st.just(...) | st.sampled_from([INF, -INF]) | no_zero | any_text
json_values = st.recursive(
    json_leaves, lambda inner: st.lists(inner) | st.dictionaries(any_text, inner), max_leaves=12
)


def literals(leaves):
    keys = st.recursive(leaves, lambda inner: st.lists(inner).map(tuple), max_leaves=4)

    def containers(inner):
        lists = st.lists(inner)
        return lists | lists.map(tuple) | st.sets(keys) | st.dictionaries(keys, inner)

    return st.recursive(keys, containers, max_leaves=12)


@given(json_values, st.booleans())
def test_every_json_value_round_trips(value, ascii_only):
    """A text that the standard library writes is decoded as the standard library does."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert typed(decode(text)) == typed(json.loads(text))


digits = st.text("0123456789", min_size=1, max_size=25)
numbers = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    st.integers(0, 10**20) | st.just(0),
    st.just("") | digits.map(".{}".format),
    st.just("")
    | st.builds("{}{}".format, st.sampled_from(["e", "E", "e+", "e-0"]), st.integers(0, 330)),
)


@given(
    st.lists(numbers | finite.map(repr), max_size=9),
    st.sampled_from(["", ", 1.5" * 300, ", 1.50" * 300]),
)
def test_every_number_keeps_its_digits(found, more):
    """A number with a fraction or exponent is a float if that keeps its digits, else a Decimal."""
    text = f"[0{''.join(f', {number}' for number in found)}{more}]"
    exact = json.loads(text, parse_float=Decimal)
    for number, arrived in zip(exact, decode(text), strict=True):
        if type(number) is int:
            assert typed(arrived) == typed(number)
        elif number == Decimal(repr(float(number))):
            assert typed(arrived) == typed(float(number))
        elif str(number).lstrip("-").isdecimal():  # a whole number, which an exponent gives a point
            assert typed(arrived) == typed(Decimal(f"{number}.0"))
        else:
            assert typed(arrived) == typed(number)
    assert typed(decode(encode_exactly(decode(text)))) == typed(decode(text))


@pytest.mark.parametrize(
    "text", ["9007199254740993e0", "-90071992547409.93E2", "123456789012345678901234567890e-0"]
)
def test_a_whole_number_with_an_exponent_travels_in_a_task(text):
    """It is decoded to a Decimal that `encode_exactly` can write."""
    for wrapped in (text, f"[{text}]"):
        value = decode(wrapped)
        assert typed(decode(encode_exactly(value))) == typed(value)
    assert decode(text) == Decimal(text)
    assert type(decode(text)) is Decimal


@pytest.mark.slow
@given(literals(repr_leaves))
def test_every_literal_round_trips_through_repr(value):
    """The `repr()` of builtin values is decoded to the same values."""
    assert typed(decode(repr(value))) == typed(value)


@pytest.mark.slow
@given(literals(odd_leaves) | json_values)
def test_every_value_round_trips_through_encode(value):
    """A value arrives as it was sent, in a text without NUL characters."""
    text = encode(value)
    assert typed(decode(text)) == typed(value)
    assert b"\0" not in text.encode()


words = ("'a'", r"'\d'", "b'", "'''", "0x", "1if", "set()", "True", "...")
tokens = st.sampled_from([*"()[]{},:+-#.'\"\\ \n\r\f01_ej", *words])


@pytest.mark.slow
@settings(max_examples=5 * settings().max_examples)
@given(any_text | st.lists(tokens).map("".join))
def test_no_text_raises_or_warns_and_text_survives_encode(text):
    """Any text can be decoded, and any text can be sent as text."""
    assert typed(payload.decode(text)) == typed(decode(text))  # whatever the filters
    sent = encode(text)
    assert decode(sent) == text
    assert type(decode(sent)) is str
    assert b"\0" not in sent.encode()
