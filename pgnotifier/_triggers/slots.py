"""Places in the source of a function for what is only known where the trigger is created.

A place is a name between two NULs: no text that a user gives has one.
"""

import re

IDENTITY = "\0identity\0"
"""The schema and the table, as arguments of `jsonb_build_object`."""
OLD_KEY, NEW_KEY = "\0old_key\0", "\0new_key\0"
"""The key of the old and of the new row, as jsonb."""
OLD_TEXT, NEW_TEXT = "\0old_text\0", "\0new_text\0"
"""The same, as the text of JSON."""
OLD_ENDS, NEW_ENDS = "\0old_ends\0", "\0new_ends\0"
"""Two aggregates: the first and the last key, as jsonb. Null for keys that have no `min()`."""
OLD_ORDER, NEW_ORDER = "\0old_order\0", "\0new_order\0"
"""What to sort old and new rows by, ascending."""
OLD_BACKWARDS, NEW_BACKWARDS = "\0old_backwards\0", "\0new_backwards\0"
"""The same, descending."""
SAME_KEY = "\0same_key\0"
"""A condition: the old row and the new one have the same key."""
NO_OLD = "\0no_old\0"
"""A condition: there is no such old row."""
COMPARED = "\0compared\0"
"""Statements that compare all columns: see `compare_columns`."""


def split(source: str) -> tuple[list[str], list[str]]:
    """Return the pieces of a source, and the variables that come between them."""
    parts = re.split("\0(\\w+)\0", source)
    return parts[::2], [f"its_{one}" for one in parts[1::2]]
