"""One name for one thing: class names of integrations and dispatchers are unique in the package."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import pgnotifier

PACKAGE = Path(pgnotifier.__file__).parent
SHARED = {
    "Channel": "the registry's value of a channel, and the channel as a signal of Django",
    "Command": "Django looks for a command by this name",
    "DeadLetter": "the log's value of a failed entry, and the row that Django's admin shows",
    "Migration": "Django looks for a migration by this name",
    "Outbox": "where messages are put in the log, and the row that Django's admin shows",
    "Listener": "the core's listener, and the row that it has in Django's admin",
}
"""Names that a framework requires, or that mean the same thing in both places."""


@pytest.mark.slow
def test_class_names():
    """The name of each class in `contrib` and `dispatchers` is unique."""
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path.relative_to(PACKAGE))
    ours = {
        name: found
        for name, found in places.items()
        if len(found) > 1 and any(path.parts[0] in ("contrib", "dispatchers") for path in found)
    }
    assert ours.keys() - {"Meta"} == SHARED.keys()
