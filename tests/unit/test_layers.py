"""The tree is the route: imports run downwards only, there is no cycle, and private is private."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pgnotifier

ROOT = Path(__file__).parents[2]
PACKAGE = Path(pgnotifier.__file__).parent
LAYERS = (
    "_runtime",
    "errors",
    "_payload",
    "payload",
    "notification",
    "gathering",
    "status",
    "dispatch",
    "_connection",
    "_registry",
    "_delivery",
    "_listener",
    "dispatchers",
    "settings",
    "_health",
    "_notifier",
    "notifier",
    "__init__",
    "testing",
    "cli",
    "contrib",
    "demo",
    "__main__",
)
"""From the lowest to the highest. A module imports from its own layer and from lower ones."""
LAZY = {("pgnotifier.cli.command", "pgnotifier.demo")}
"""Commands that import what they run only once they are called."""
PUBLIC = ("pgnotifier", "pgnotifier.dispatchers", "pgnotifier.testing", "pgnotifier.contrib")
"""What users import from; with `payload` and `errors`, whose functions and classes have docs."""


def name_of(path):
    """Return a module's name."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imports(tree):
    """Yield what a module imports of ours, for types only as well, as names of modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                for name in (f"{node.module}.{alias.name}", node.module, f"{node.module}.__init__"):
                    if name in MODULES:
                        yield name
                        break
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)


IMPORTS = {name: set(imports(ast.parse(path.read_text()))) for name, path in MODULES.items()}


def layer(module):
    """Return the number of a module's layer."""
    return LAYERS.index(module.split(".")[1])


@pytest.mark.parametrize("module", MODULES)
def test_no_import_runs_upwards(module):
    """Not even for a type."""
    above = {one for one in IMPORTS[module] if layer(one) > layer(module)}
    assert {one for one in above if (module, one.rpartition(".")[0]) not in LAZY} == set()


def test_there_is_no_cycle():
    """Whoever reads a module needs to know those below it, and no others."""
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as exc:
        pytest.fail(" imports ".join(reversed(exc.args[1])))


def is_public(module):
    """Return whether users may import from a module."""
    parts = module.split(".")
    return not any(part.startswith("_") for part in parts) and (
        module in {"pgnotifier", "pgnotifier.payload", "pgnotifier.errors"}
        or parts[1] in {"dispatchers", "testing", "contrib", "demo"}
    )


@pytest.mark.parametrize(
    "path",
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.py")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_users_import_what_is_public(path):
    """In all that we show them."""
    shown = re.findall(r"^\s*(?:from|import) (pgnotifier[\w.]*)", path.read_text(), re.MULTILINE)
    assert [module for module in shown if not is_public(module)] == []


def test_what_is_private_says_so():
    """All modules of the core but the public ones are in packages with an underscore."""
    flat = {path.stem for path in PACKAGE.glob("*.py")}
    assert flat <= set(LAYERS)
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"} <= set(
        LAYERS
    )
