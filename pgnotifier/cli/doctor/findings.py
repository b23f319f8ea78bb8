"""Findings: what the checks of `doctor` have seen, and what to do about it."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pgnotifier._runtime.redaction import redact
from pgnotifier.cli.printable import printable

Level = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has seen.

    Attributes:
        check: The name of the check.
        level: `ok`, `warning`, or `failed` if notifications can't arrive or be worked on.
        seen: A sentence about what was seen.
        advice: What to do; None if it is `ok`.
    """

    check: str
    level: Level
    seen: str
    advice: str | None = None

    def to_dict(self) -> Mapping[str, Any]:
        """Return the same as JSON-able values."""
        return asdict(self)

    def cleaned(self, secrets: list[str]) -> "Finding":
        """Return the same without passwords and control characters."""
        advice = None if self.advice is None else clean(self.advice, secrets)
        return replace(self, seen=clean(self.seen, secrets), advice=advice)


Findings = Iterator[Finding]


def ok(check: str, seen: str) -> Finding:
    """Return the finding that all is well."""
    return Finding(check, "ok", seen)


def warning(check: str, seen: str, advice: str) -> Finding:
    """Return the finding that something may cause trouble."""
    return Finding(check, "warning", seen, advice)


def failed(check: str, seen: str, advice: str) -> Finding:
    """Return the finding that notifications can't arrive, or can't be processed."""
    return Finding(check, "failed", seen, advice)


def clean(text: str, secrets: list[str]) -> str:
    """Return a text on one line, without passwords and control characters."""
    shown = redact(text, *secrets)
    return printable(shown.translate(_SPACES))


_SPACES = dict.fromkeys(map(ord, "\n\t\r"), " ")
