"""What a message in an outbox calls, and what of it is shown."""

import base64
import json
import pickle

import pytest

from pgnotifier._log.outbox_redaction import HIDDEN, check_redact, mentions, read_call
from pgnotifier.errors import ArgumentTypeError

SECRET = "jane@example.com"
NEXT = {"task": "shop.store", "args": [SECRET], "kwargs": {}}


def message(*args, body=None, compression=None, kind="application/json", **kwargs):
    """Return a message as Celery makes it, with personal arguments."""
    content = json.dumps([args, kwargs, {"chain": [NEXT], "callbacks": None, "chord": NEXT}])
    headers = {
        "lang": "py",
        "task": "shop.invoice",
        "id": "a",
        "shadow": SECRET,
        "argsrepr": repr(args),
        "kwargsrepr": repr(kwargs),
        "stamps": {"customer": SECRET},
        "x-customer": SECRET,
        "retries": 0,
    }
    if compression:
        headers["compression"] = compression
    return json.dumps(
        {
            "body": base64.b64encode(body or content.encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": kind,
            "headers": headers,
            "properties": {"correlation_id": "a", "body_encoding": "base64", "x": SECRET},
        }
    )


def test_values_are_hidden():
    """By default the values of arguments are hidden, and whatever may contain some."""
    shown = read_call(message(SECRET, 7, email=SECRET, deep={"email": SECRET})).describe(None)
    assert SECRET not in json.dumps(shown)
    assert shown["args"] == [HIDDEN, HIDDEN]
    assert shown["kwargs"] == {"email": HIDDEN, "deep": HIDDEN}
    assert shown["then"] == ["shop.store", "shop.store"]
    assert shown["headers"] == {"lang": "py", "task": "shop.invoice", "id": "a", "retries": 0}
    assert shown["properties"] == {"correlation_id": "a"}


def test_names():
    """The values of these names are hidden at any depth, and positional ones, too."""
    call = read_call(message(SECRET, email=SECRET, copies=2, to=[{"email": SECRET, "at": 1}]))
    shown = call.describe(["email"])
    assert SECRET not in json.dumps(shown)
    assert shown["args"] == [HIDDEN]
    assert shown["kwargs"] == {"email": HIDDEN, "copies": 2, "to": [{"email": HIDDEN, "at": 1}]}


def test_a_function():
    """A function says what to show. If it fails, everything is hidden."""

    def redact(task, args, kwargs):
        assert task == "shop.invoice"
        return args[1:], {"copies": kwargs["copies"]}

    call = read_call(message(SECRET, 7, copies=2, email=SECRET))
    shown = call.describe(redact)
    assert (shown["args"], shown["kwargs"]) == ([7], {"copies": 2})
    assert SECRET not in json.dumps(shown)
    shown = read_call(message(SECRET)).describe(redact)
    assert (shown["args"], shown["kwargs"]) == ([HIDDEN], {})


def test_everything():
    """An empty list hides nothing."""
    shown = read_call(message(SECRET, copies=2)).describe([])
    assert (shown["args"], shown["kwargs"]) == ([SECRET], {"copies": 2})
    assert shown["headers"]["stamps"] == {"customer": SECRET}
    assert shown["properties"]["x"] == SECRET


@pytest.mark.parametrize("redact", [None, ["email"], lambda *given: given[1:]])
@pytest.mark.parametrize(
    "payload",
    [
        message(SECRET, kind="application/x-python-serialize"),
        message(SECRET, compression="application/x-gzip"),
        message(body=pickle.dumps(SECRET)),
        message(body=json.dumps(SECRET).encode()),
        message(body=b"[[1], 2]"),
        json.dumps({"body": [SECRET], "content-type": "application/json", "headers": SECRET}),
        json.dumps([SECRET]),
        json.dumps({"data": SECRET, "args": SECRET, "description": SECRET}),
        f"{SECRET}[",
        "[" * 100_000,
        "",
    ],
)
def test_what_can_not_be_read(redact, payload):
    """Of arguments that aren't JSON, or of whatever else there is, nothing is shown."""
    shown = read_call(payload).describe(redact)
    assert SECRET not in json.dumps(shown)
    assert (shown["args"], shown["kwargs"]) == (None, None)


def test_what_sql_has_asked_for():
    """What SQL has asked for is hidden in the same way."""
    request = {
        "task": "shop.invoice",
        "id": "a",
        "args": [SECRET],
        "kwargs": {"copies": 2, "email": SECRET},
        "queue": "low",
        "headers": {"x": SECRET},
        "meta": {"x": SECRET},
    }
    call = read_call(json.dumps(request))
    assert call.describe(None) == {
        "args": [HIDDEN],
        "kwargs": {"copies": HIDDEN, "email": HIDDEN},
        "then": [],
        "task": "shop.invoice",
        "id": "a",
        "queue": "low",
    }
    assert call.describe(["email"])["kwargs"] == {"copies": 2, "email": HIDDEN}
    assert call.describe([])["headers"] == {"x": SECRET}
    assert (
        read_call('{"function": "shop.invoice", "args": [], "kwargs": {}}').task == "shop.invoice"
    )


@pytest.mark.parametrize("redact", [None, ["email"], [], lambda *given: given[1:]])
def test_deep_arguments(redact):
    """Arguments with too many levels aren't shown, and are found in a text all the same."""
    deep = SECRET
    for _ in range(900):
        deep = [deep]
    payload = json.dumps({"task": "a", "args": [deep], "kwargs": {}, "meta": deep})
    shown = read_call(payload).describe(redact)
    assert (shown["args"], shown["kwargs"]) == (None, None)
    assert SECRET not in json.dumps(shown)
    assert mentions(payload, f"ValueError: {SECRET}")


@pytest.mark.parametrize("redact", ["email", 7, [7]])
def test_what_can_not_hide(redact):
    """Names are a list, because a str would be one of letters."""
    with pytest.raises(ArgumentTypeError, match="redact"):
        check_redact(redact)


def test_what_can_hide():
    """A function, names, or nothing."""
    assert check_redact(None) is None
    assert check_redact(len) is len
    assert check_redact(["email"]) == ("email",)


@pytest.mark.parametrize(
    ("text", "is_mentioned"),
    [
        (f"ValueError: no customer {SECRET}", True),
        ("KeyError: 1234567", True),
        ("it's a \\n b", True),
        ("ValueError: 7 isn't one of the copies", False),
        ("TypeError: unexpected keyword argument 'deep'", False),
        ("", False),
    ],
)
def test_texts_with_arguments(text, is_mentioned):
    """Arguments are found in a text, unless they are too short to be recognised."""
    payload = message(7, SECRET, "a", number=1234567, deep=[{"x": SECRET}], note="a \n b")
    assert mentions(payload, text) is is_mentioned
    assert not mentions("nonsense", text)
