"""docs/operations.md says of each WARNING and ERROR in the log what to do, by its text."""

import ast
import re
from pathlib import Path

import pgnotifier

PACKAGE = Path(pgnotifier.__file__).parent
DOCS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
QUIET = ("debug", "info")
WORDS = 3
"""A format with fewer words, as in '%s%s again', is a frame for texts that come from elsewhere."""


def warnings_of(path):
    """Yield the format of each record that a module may log at WARNING or above."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not any(key.arg == "extra" for key in node.keywords):
            continue
        called = ast.unparse(node.func).rpartition(".")[2]
        if called in QUIET or (called == "log" and is_quiet(node.args[0])):
            continue
        yield from (
            argument.value
            for argument in node.args[:2]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        )


def is_quiet(level):
    """Return whether a level is certainly below WARNING."""
    return not {"WARNING", "ERROR", "level"} & set(re.findall(r"\w+", ast.unparse(level)))


def in_docs(text):
    """Return a format as the documentation has it: `…` for each value."""
    return re.sub(r"%[-+\d.]*[srdf]", "…", text).replace("……", "…")


def test_every_warning_is_explained():
    """Each one that says something of its own is there, in its words."""
    formats = {
        one
        for path in PACKAGE.rglob("*.py")
        if not {"demo", "testing"} & set(path.parts)
        for one in warnings_of(path)
        if len(re.findall(r"[a-z']{2,}", one)) >= WORDS
    }
    assert len(formats) > 40
    assert [
        one for one in sorted(formats) if not re.search(re.escape(in_docs(one)) + " ?`", DOCS)
    ] == []
