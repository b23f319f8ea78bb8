"""Errors: the tree in the module's docstring matches the code."""

import ast
import re
from pathlib import Path

import pgnotifier
from pgnotifier import errors

PACKAGE = Path(pgnotifier.__file__).parent
TREE = dict(re.findall(r"[├└]── (\w+) +\((\w+)\) +\S", errors.__doc__))
"""The second base of each exception, by name."""


def find_exceptions():
    """Return the bases of each public exception, by name."""
    found = {"PgNotifierError": []}
    bases = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if not any(part.startswith("_") and part != "__init__" for part in parts):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    bases[node.name] = [ast.unparse(one).split(".")[-1] for one in node.bases]
    while more := {n: b for n, b in bases.items() if n not in found and set(b) & set(found)}:
        found |= more
    del found["PgNotifierError"]
    return found


def test_the_tree_is_whole():
    """The tree has every public exception, including those of integrations, and no others."""
    assert TREE.keys() == find_exceptions().keys()


def test_the_tree_names_the_bases():
    """The tree names a base of each exception."""
    found = find_exceptions()
    assert {name: base for name, base in TREE.items() if base not in found[name]} == {}
