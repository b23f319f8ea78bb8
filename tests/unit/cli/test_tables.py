"""The tables that commands print."""

from pgnotifier.cli.tables import format_table, format_values

HEADINGS = {"channel": "CHANNEL", "id": "SUBSCRIPTION"}


def test_columns_are_aligned():
    """Each column is as wide as its widest cell, and no line ends with spaces."""
    rows = [
        {"channel": "orders", "id": "invoice", "other": "not shown"},
        {"channel": "a long channel", "id": "x", "other": None},
    ]
    assert format_table(HEADINGS, rows).splitlines() == [
        "CHANNEL         SUBSCRIPTION",
        "orders          invoice",
        "a long channel  x",
    ]


def test_empty_cells_are_dashes():
    """A cell that is None or an empty text is shown as a dash."""
    rows = [{"channel": "", "id": None}]
    assert format_table(HEADINGS, rows).splitlines()[1] == "-        -"


def test_no_rows():
    """A table without rows consists of the headings."""
    assert format_table(HEADINGS, iter(())) == "CHANNEL  SUBSCRIPTION"


def test_what_a_terminal_would_obey():
    """Escape sequences, and characters that change a line's direction, are written as escapes."""
    rows = [{"channel": "a\x1b[2Jb", "id": "\u202ex\ny"}]
    assert format_table(HEADINGS, rows).splitlines()[1] == "a\\x1b[2Jb  \\u202ex\\ny"
    assert format_values({"payload": "a\x1b[2J\nb\x9b"}) == "payload:\na\\x1b[2J\nb\\x9b"


def test_values():
    """Each value has a line; texts of several lines begin below the name."""
    values = {"n": 1, "key": None, "args": [1, "é"], "traceback": "one\n  two"}
    assert format_values(values) == 'n: 1\nkey: -\nargs: [1, "é"]\ntraceback:\none\n  two'
