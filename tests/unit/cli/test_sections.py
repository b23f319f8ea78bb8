"""The list of commands in the help."""

import click
from click.testing import CliRunner

from pgnotifier.cli.command import pgnotifier
from pgnotifier.cli.sections import SECTIONS, SectionedGroup


def test_sections():
    """Each command is in the section where a newcomer looks for it, and each is listed once."""
    said = CliRunner().invoke(pgnotifier, ["--help"]).output
    assert said.index("Try it:") < said.index("Run it:") < said.index("Set up a database:")
    listed = [
        line.split()[0] for line in said.splitlines() if line.startswith("  ") and line[2] != " "
    ]
    assert sorted(set(pgnotifier.commands) - set(listed)) == []


def test_a_command_without_a_section():
    """It comes last."""
    group = SectionedGroup(
        "shop",
        commands={"other": click.Command("other", help="Do it."), "demo": click.Command("demo")},
    )
    said = CliRunner().invoke(group, ["--help"]).output
    assert said.index("demo") < said.index("More:") < said.index("other  Do it.")
    assert "More" not in SECTIONS
