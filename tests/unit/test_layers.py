"""The package has layers: imports go downwards only, and there are no cycles."""

import ast
import re
from functools import cache
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
    "settings",
    "notification",
    "current",
    "gathering",
    "durability",
    "status",
    "acknowledging",
    "dispatch",
    "_connection",
    "_registry",
    "_log",
    "durable",
    "once",
    "_inquiry",
    "_triggers",
    "triggers",
    "_delivery",
    "_durable",
    "_listener",
    "dispatchers",
    "_health",
    "_notifier",
    "notifier",
    "__init__",
    "testing",
    "console",
    "cli",
    "contrib",
    "demo",
    "__main__",
)
"""The layers, lowest first. A module imports from its own layer and from lower ones."""
LAZY = {("pgnotifier.cli.command", "pgnotifier.demo")}
"""Imports of commands that are executed only when the command is called."""
PUBLIC = ("pgnotifier", "pgnotifier.dispatchers", "pgnotifier.testing", "pgnotifier.contrib")
"""What users import from, along with `payload` and `errors`, which have documented names."""


def name_of(path):
    """Return a module's name."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imports(tree):
    """Yield the names of the package's modules that a module imports, including for types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                for name in (f"{node.module}.{alias.name}", node.module, f"{node.module}.__init__"):
                    if name in MODULES:
                        yield name
                        break
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)


@cache
def imports_of(module):
    """Return the names of the package's modules that a module imports."""
    return set(imports(ast.parse(MODULES[module].read_text())))


def layer(module):
    """Return the number of a module's layer."""
    return LAYERS.index(module.split(".")[1])


@pytest.mark.parametrize("module", MODULES)
def test_no_import_runs_upwards(module):
    """A module doesn't import from a higher layer, not even for a type."""
    above = {one for one in imports_of(module) if layer(one) > layer(module)}
    assert {one for one in above if (module, one.rpartition(".")[0]) not in LAZY} == set()


def test_there_is_no_cycle():
    """The imports have no cycle."""
    try:
        TopologicalSorter({name: imports_of(name) for name in MODULES}).prepare()
    except CycleError as exc:
        pytest.fail(" imports ".join(reversed(exc.args[1])))


def is_public(module):
    """Return whether users may import from a module."""
    parts = module.split(".")
    return not any(part.startswith("_") for part in parts) and (
        module
        in {
            "pgnotifier",
            "pgnotifier.durable",
            "pgnotifier.once",
            "pgnotifier.triggers",
            "pgnotifier.payload",
            "pgnotifier.errors",
        }
        or parts[1] in {"dispatchers", "testing", "contrib", "demo"}
    )


@pytest.mark.parametrize(
    "path",
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.py")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_users_import_what_is_public(path):
    """The documentation and the examples import from public modules only."""
    shown = re.findall(r"^\s*(?:from|import) (pgnotifier[\w.]*)", path.read_text(), re.MULTILINE)
    assert [module for module in shown if not is_public(module)] == []


def test_what_is_private_says_so():
    """Each module and package of the core belongs to a layer."""
    flat = {path.stem for path in PACKAGE.glob("*.py")}
    assert flat <= set(LAYERS)
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"} <= set(
        LAYERS
    )
