"""Databases in other encodings: payloads, and channel names, that they can or can't hold."""

import threading

import psycopg
import pytest
from psycopg import pq

from pgnotifier import (
    ChannelNameError,
    ListenRefusedError,
    PayloadEncodingError,
    PayloadTooLargeError,
)
from pgnotifier._connection.connecting import Connecting
from pgnotifier._connection.encoding import find_encoding
from pgnotifier._connection.parameters import Parameters
from pgnotifier._log.dead_letters import find_letters, retry_letters
from pgnotifier.durable import install
from pgnotifier.errors import LogRefusedError

ENCODINGS = (
    *("EUC_CN", "EUC_JIS_2004", "EUC_JP", "EUC_KR", "ISO_8859_5", "KOI8R", "KOI8U"),
    *("LATIN1", "LATIN2", "LATIN5", "LATIN6", "LATIN7", "LATIN8", "LATIN9", "LATIN10"),
    *("WIN866", "WIN874", "WIN1250", "WIN1251", "WIN1252", "WIN1253", "WIN1255", "WIN1258"),
)


@pytest.fixture
def encoded(database_in, request):
    """Return the conninfo string of a database in the encoding that the test names."""
    return database_in(request.param)


def in_encoding(*encodings):
    """Run a test once for each of these encodings."""
    return pytest.mark.parametrize("encoded", encodings, indirect=True)


@in_encoding("SQL_ASCII")
def test_bytes_that_are_not_unicode(encoded, make_notifier, record):
    """In SQL_ASCII, bytes that aren't UTF-8 arrive as surrogates, and later ones are delivered."""
    errors = []
    notifier = make_notifier(encoded, on_error=lambda *args: errors.append(args))
    notifier.subscribe(1, "ü", record)
    with psycopg.connect(encoded, autocommit=True, client_encoding="SQL_ASCII") as odd:
        odd.execute(b"NOTIFY \"\xc3\xbc\", '\xff\xfe'")
        odd.execute(b"NOTIFY \"\xff\", 'nobody listens to this one'")
        odd.execute(b"NOTIFY \"\xc3\xbc\", '\xc3\xbc'")
    notifier.notify("ü", "ß")
    assert record.wait_for(3) == ["\udcff\udcfe", "ü", "ß"]
    assert errors == []


@pytest.mark.parametrize(
    ("encoded", "channel", "odd", "read"),
    [
        # Bytes that the encoding leaves undefined, or that have no equivalent in UTF-8.
        ("WIN1252", "gelée", b"\x81\x9d\xe9", "\udc81\udc9dé"),
        ("WIN874", "ช่อง", b"\xdb\xa1", "\udcdbก"),
        ("EUC_JP", "注文", b"\xa9\xa1\xa4\xa2", "\udca9\udca1あ"),
        ("EUC_JIS_2004", "注文", b"\xa4\xfe\xa4\xa2", "\udca4\udcfeあ"),
        ("EUC_KR", "주문", b"\xa2\xe9\xb0\xa1", "\udca2\udce9가"),
        ("EUC_KR", "주문", b"\xc9\xa1\xb0\xa1", "\ufffd\ufffd가"),  # another letter in UTF-8
        ("EUC_CN", "订单", b"\xaa\xa1\xb0\xa1", "\udcaa\udca1啊"),
        ("LATIN1", "gelée", b"\x80\xe9", "\x80é"),
        ("KOI8R", "заказы", b"\xd1", "я"),
        # Encodings that Python has no codec for.
        ("EUC_TW", "orders", b"\xa4\xa1", "\udca4\udca1"),
        ("MULE_INTERNAL", "orders", b"\x81\xe9", "\udc81\udce9"),
    ],
    indirect=["encoded"],
)
def test_what_utf8_lacks(encoded, channel, odd, read, make_notifier, record):
    """Bytes without an equivalent arrive as surrogates, and no notification is lost."""
    gaps = []
    notifier = make_notifier(encoded, on_gap=gaps.append)
    notifier.subscribe(1, channel, record)
    with psycopg.connect(encoded, autocommit=True, client_encoding="SQL_ASCII") as raw:
        name = find_encoding(raw.info.parameter_status("server_encoding")).encode(channel)
        for number in range(3):
            raw.execute(b"NOTIFY \"%s\", 'before'" % name)
            raw.execute(b"NOTIFY \"%s\", '%d %s'" % (name, number, odd))
            raw.execute(b"NOTIFY \"%s\", 'after'" % name)
    expected = [one for number in range(3) for one in ("before", f"{number} {read}", "after")]
    assert record.wait_for(9) == expected
    assert set(record.channels) == {channel}
    assert gaps == []
    assert notifier.status().reconnects == 0
    notifier.notify(channel, "sent")
    assert record.wait_for(10)[-1] == "sent"
    notifier.restart()
    notifier.remove_channel(channel)
    notifier.subscribe(1, channel, record)
    notifier.notify(channel, "anew")
    assert record.wait_for(11)[-1] == "anew"


@in_encoding("EUC_JP", "WIN1252", "KOI8R")
def test_text_arrives_as_it_was_sent(encoded, make_notifier, record):
    """Text from UTF-8 clients, also from the notifier itself, arrives as it was sent."""
    texts = {
        "EUC_JP": "日本語 ～－￠∥ ①㈱№Ⅷ ⅷ髙 ｶﾅ",  # noqa: RUF001
        "WIN1252": "gelée €—“”",
        "KOI8R": "заказ ≈ ─",
    }
    notifier = make_notifier(encoded)
    notifier.subscribe(1, "orders", record)
    with psycopg.connect(encoded, autocommit=True, client_encoding="UTF8") as connection:
        name = connection.info.parameter_status("server_encoding")
        connection.execute("SELECT pg_notify('orders', %s)", [texts[name]])
    notifier.notify("orders", texts[name])
    assert record.wait_for(2) == [texts[name]] * 2


@pytest.mark.parametrize("name", ENCODINGS)
def test_characters_are_those_of_postgresql(name, pgnotifier_dsn):
    """Bytes that PostgreSQL can convert are decoded as PostgreSQL does, and encoded back."""
    encoding = find_encoding(name)
    lead = range(0x80, 0x100)
    found = [bytes([one]) for one in lead]
    if encoding.codec in ("euc_jp", "euc_jis_2004", "euc_kr", "gb2312"):
        found += [bytes([one, two]) for one in lead for two in range(0xA1, 0x100)]
    if name == "EUC_JP":
        found += [bytes([0x8F, one, two]) for one in range(0xA1, 0xFF) for two in range(0xA1, 0xFF)]
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION to_utf8(data bytea, name text) RETURNS bytea LANGUAGE plpgsql AS"
            " $$ BEGIN RETURN convert(data, name, 'UTF8');"
            " EXCEPTION WHEN others THEN RETURN NULL; END $$"
        )
        rows = connection.execute(
            "SELECT data, to_utf8(data, %s) FROM unnest(%s::bytea[]) AS data", [name, found]
        ).fetchall()
    known = {data: text.decode() for data, text in rows if text is not None}
    assert len(known) > 50
    assert {data: encoding.decode(data) for data in known} == known
    for data, text in known.items():
        assert encoding.decode(encoding.encode(text)) == text, data


@in_encoding("LATIN1")
def test_a_refused_channel(encoded, make_notifier, make_recorder):
    """A channel that the server refuses raises and isn't added; other channels aren't affected."""
    record = make_recorder()
    notifier = make_notifier(encoded)
    with pytest.raises(ListenRefusedError, match="LATIN1, has no character '日'"):
        notifier.add_channels(["first", "日本"])
    assert notifier.get_channels() == set()
    assert not notifier.is_running()
    notifier.subscribe(1, "ü", record)
    for number in range(20):
        notifier.notify("ü", number)
        with pytest.raises(ListenRefusedError, match="LATIN1"):
            notifier.add_channels(["good", "日本"])
        with pytest.raises(ListenRefusedError):
            notifier.subscribe(2, "日本", record)
        assert record.wait_for(number + 1, timeout=5)[-1] == number
    assert notifier.get_channels() == {"ü"}
    assert notifier.get_subscriptions() == {"ü": {1: record}}
    assert notifier.status().reconnects == 0


@in_encoding("EUC_JP")
def test_a_name_that_is_longer_there(encoded, make_notifier, record):
    """A channel name that PostgreSQL would truncate in the database's encoding is refused."""
    notifier = make_notifier(encoded)
    name = "é" * 22  # three bytes each in EUC_JP, two in UTF-8
    with pytest.raises(ListenRefusedError, match="EUC_JP, it has 66 bytes"):
        notifier.subscribe(1, name, record)
    notifier.subscribe(1, name[1:], record)
    notifier.notify(name[1:], 1)
    assert record.wait_for(1) == [1]


@in_encoding("LATIN1", "EUC_TW", "MULE_INTERNAL")
def test_what_can_not_be_sent(encoded, make_notifier):
    """If the encoding lacks a character of the payload or the channel, the error names it."""
    notifier = make_notifier(encoded)
    with pytest.raises(
        PayloadEncodingError, match=r"'orders'.*(LATIN1|EUC_TW|MULE_INTERNAL), has no character 'ש'"
    ):
        notifier.notify("orders", {"name": "שלום"})
    with pytest.raises(ChannelNameError, match="has no character 'ש'"):
        notifier.notify("ש", 1)
    notifier.notify("orders", "and on it goes")


@pytest.mark.parametrize(
    ("encoded", "fits", "too_long"),
    [
        ("LATIN1", "é" * 7999, "é" * 8000),  # 16,000 bytes of UTF-8
        ("KOI8R", "я" * 7998 + "x", "я" * 8000),
        ("EUC_JP", "é" * 2666, "é" * 2667),  # 5,334 bytes in UTF-8, 8,001 in EUC_JP
        ("UTF8", "é" * 3999, "é" * 4000),
    ],
    indirect=["encoded"],
)
def test_the_largest_payload(encoded, make_notifier, record, fits, too_long):
    """The largest payload depends on its number of bytes in the database's encoding."""
    notifier = make_notifier(encoded)
    notifier.subscribe(1, "orders", record)
    with pytest.raises(PayloadTooLargeError, match=r"'orders' has .* 7999 at most"):
        notifier.notify("orders", too_long)
    notifier.notify("orders", fits)
    assert record.wait_for(1) == [fits]


@in_encoding("EUC_TW")
def test_a_size_that_only_the_server_knows(encoded, make_notifier):
    """If Python has no codec, the server refuses a payload too large, with the same error."""
    notifier = make_notifier(encoded)
    notifier.notify("orders", "中" * 3999)
    with pytest.raises(PayloadTooLargeError, match=r"'orders' has too many bytes.* 7999 at most"):
        notifier.notify("orders", "中" * 4000)


@in_encoding("WIN1252", "EUC_JP", "EUC_TW", "SQL_ASCII")
def test_errors_of_the_server(encoded):
    """Error messages of the server are decoded from its encoding too."""
    done = threading.Event()
    connecting = Connecting(Parameters(encoded), done.set)
    assert done.wait(15)
    session = connecting.result()
    try:
        assert session.encoding.name.lower() in encoded
        word = "é" if session.encoding.codec != "ascii" else "e"
        session.send(session.encoding.encode(f'SELECT "{word}"'))
        with pytest.raises(ListenRefusedError, match=f'column "{word}"'):
            while not session.answered():
                session.consume()
        assert session._pgconn.transaction_status == pq.TransactionStatus.IDLE
    finally:
        session.close()


@in_encoding("WIN1252", "SQL_ASCII", "EUC_JP")
def test_entries_without_an_equivalent(encoded, make_notifier, eventually):
    """An entry that UTF-8 can't express is delivered, retried and kept, and holds up no other."""
    odd, name = b"\x81\xad\xb5" if encoded_in(encoded) != "EUC_JP" else b"\xa9\xa1", "ch"
    calls = []

    def fail_first(id, channel, payload, pid):
        calls.append(payload)
        if len(calls) == 1:
            raise ValueError("\N{CHECK MARK} \N{CJK UNIFIED IDEOGRAPH-4E00}")

    with psycopg.connect(encoded, autocommit=True) as session:
        install(session)
        notifier = make_notifier(encoded)
        notifier.subscribe("sub", name, fail_first, durable=True)
        pgconn = session.pgconn
        pgconn.exec_(f"SET client_encoding TO {find_encoding(encoded_in(encoded)).client}".encode())
        for payload in (odd, b"7"):
            done = pgconn.exec_(b"SELECT pgnotifier.publish('ch', '" + payload + b"', 'k')")
            assert done.status == pq.ExecStatus.TUPLES_OK, done.error_message
        eventually(lambda: calls[1:] == [7])
        pgconn.exec_(b"SET client_encoding TO UTF8")
        eventually(lambda: len(find_letters(session, everything=True)) == 1)
        (letter,) = find_letters(session, everything=True)
        assert "\N{CHECK MARK}" in letter.error or "\\u2713" in letter.error
        assert letter.key == "k"
        retry_letters(session, [letter.n])
        session.execute("NOTIFY pgnotifier_wake")
        eventually(lambda: len(calls) == 3)
        assert calls[2] == calls[0]
        eventually(lambda: find_letters(session, everything=True) == [])


def encoded_in(dsn):
    """Return the encoding of a database."""
    with psycopg.connect(dsn) as session:
        return session.info.parameter_status("server_encoding")


@in_encoding("MULE_INTERNAL")
def test_an_encoding_that_the_log_can_not_be_read_in(encoded, make_notifier):
    """A durable subscription is refused, rather than never delivered."""
    with Parameters(encoded).connect() as connection:
        install(connection)
    notifier = make_notifier(encoded)
    notifier.start()
    with pytest.raises(LogRefusedError, match="the encoding MULE_INTERNAL"):
        notifier.subscribe("invoice", "orders", print, durable=True)
