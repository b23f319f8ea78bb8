"""The exceptions, and the tree of them in the docstring of `errors`."""

import ast
from pathlib import Path

import pgnotifier
from pgnotifier import errors


def test_the_tree_is_complete():
    """Each exception of the package that descends from PgNotifierError is in the docstring."""
    classes = [
        node
        for path in Path(pgnotifier.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    found = {"PgNotifierError"}
    for _ in range(3):  # generations
        found |= {one.name for one in classes if {ast.unparse(base) for base in one.bases} & found}
    assert len(found) > 15
    assert sorted(name for name in found if name not in errors.__doc__.split()) == []
