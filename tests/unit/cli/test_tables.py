"""The tables that commands print."""

from pgnotifier.cli.tables import format_table

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
