"""A click group that lists commands in sections by purpose, in the order of their use."""

from collections.abc import Mapping, Sequence

import click

SECTIONS: Mapping[str, Sequence[str]] = {
    "Try it": ("demo", "tail", "send"),
    "Run it": ("listen", "health"),
    "See how it is": ("status", "top", "doctor", "console"),
    "Set up a database": ("install", "uninstall", "trigger"),
    "What is durable": ("positions", "replay", "dead", "outbox", "reclaim"),
}
"""The names of commands by section. Commands that aren't listed here come last."""
REST = "More"


class SectionedGroup(click.Group):
    """A group with the sections of `SECTIONS` in its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the sections; completion offers them in this order."""
        order = [name for names in SECTIONS.values() for name in names]
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: order.index(name) if name in order else len(order))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a list for each section."""
        found = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        shown = {name: one for name, one in found.items() if one is not None and not one.hidden}
        named = {name for names in SECTIONS.values() for name in names}
        rest = [name for name in shown if name not in named]
        limit = formatter.width - 6 - max(map(len, shown), default=0)
        for title, names in (*SECTIONS.items(), (REST, rest)):
            rows = [(one, shown[one].get_short_help_str(limit)) for one in names if one in shown]
            if rows:
                width = max(map(len, shown))
                with formatter.section(title):
                    formatter.write_dl([(f"{name:<{width}}", text) for name, text in rows])
