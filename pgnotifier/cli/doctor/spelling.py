"""Check channels that differ by case: from what functions notify, or from each other."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from pgnotifier._registry.spelling import fold, is_identifier
from pgnotifier._runtime.log_records import count
from pgnotifier.cli.doctor.case import Case
from pgnotifier.cli.doctor.findings import Findings, failed, ok, warning
from pgnotifier.cli.doctor.link import Link

# Limited in number and length, because there may be any number of functions, of any size.
FUNCTIONS = """
SELECT pg_catalog.concat(n.nspname, '.', p.proname, '()'), pg_catalog.left(p.prosrc, 100000)
FROM pg_catalog.pg_proc AS p
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
WHERE p.prosrc OPERATOR(pg_catalog.~*) 'notify|pgnotifier\\s*\\.\\s*publish'
AND n.nspname OPERATOR(pg_catalog.<>) ALL ('{pg_catalog,information_schema,pgnotifier}')
ORDER BY p.oid LIMIT 1000
"""

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_LITERAL = r"\s*\(\s*'((?:[^']|'')+)'"
_NOTIFYING = re.compile(rf"\bpg_notify{_LITERAL}", re.IGNORECASE)
_PUBLISHING = re.compile(rf"\bpgnotifier\s*\.\s*publish{_LITERAL}", re.IGNORECASE)
_NOTIFY = re.compile(r'\bNOTIFY\s+(?:"((?:[^"]|"")+)"|([^\W\d][\w$]*))', re.IGNORECASE)

Places = Mapping[str, str]
"""Channels, each with a function that sends to it."""


def check_spelling(case: Case, link: Link) -> Findings:
    """Check that no channel differs only by case from one that is notified."""
    wanted, durable = case.find_channels(durable=False), case.find_channels(durable=True)
    if not wanted and not durable:
        return
    notified, published = _find_sent(link)
    found = [
        *_compare(wanted, notified, published.keys(), "notifies"),
        *_compare(durable, published, set(), "publishes to"),
        *_find_alike(wanted),
        *_find_strays(durable, notified, published),
    ]
    if not found:
        number = count(len({*wanted, *durable}), "channel")
        yield ok("channels", f"{number}; nothing differs from what is sent by case alone.")
    yield from found


def _find_sent(link: Link) -> tuple[Places, Places]:
    """Return the channels that functions in the database notify, and those they publish to."""
    notified: dict[str, str] = {}
    published: dict[str, str] = {}
    for name, source in link.ask(FUNCTIONS):
        text = _COMMENT.sub(" ", source)
        for found in _NOTIFYING.findall(text):
            notified.setdefault(found.replace("''", "'"), name)
        for found in _PUBLISHING.findall(text):
            published.setdefault(found.replace("''", "'"), name)
        for quoted, plain in _NOTIFY.findall(text):
            notified.setdefault(quoted.replace('""', '"') or fold(plain), name)
    return notified, published


def _compare(channels: Iterable[str], sent: Places, also: Collection[str], verb: str) -> Findings:
    alike = defaultdict(list)
    for one in sent:
        alike[fold(one)].append(one)
    known = {*sent, *also}
    for channel in channels:
        near = [one for one in alike[fold(channel)] if one != channel]
        if near:
            seen = (
                f"The channel is {channel!r}, but the function {sent[near[0]]} {verb} {near[0]!r}, "
                "which is another one."
            )
            advice = (
                f"Subscribe to {near[0]!r}, or have the function name it exactly, as in "
                f"pg_notify({channel!r}, …): NOTIFY without quotes folds a name to lower case."
            )
            yield (warning if channel in known else failed)("channels", seen, advice)
        elif channel not in known and fold(channel) != channel and is_identifier(channel):
            yield warning(
                "channels",
                f"The channel {channel!r} has capital letters: NOTIFY {channel} goes to "
                f"{fold(channel)!r}.",
                f'Notify it as NOTIFY "{channel}" or pg_notify({channel!r}, …), or rename it.',
            )


def _find_alike(channels: Iterable[str]) -> Findings:
    folded = defaultdict(list)
    for channel in channels:
        folded[fold(channel)].append(channel)
    for alike in folded.values():
        if len(alike) > 1:
            yield warning(
                "channels",
                f"The channels {', '.join(map(repr, alike))} differ by case alone.",
                "Notify the one that is meant with quotes, or rename one of them.",
            )


def _find_strays(durable: Iterable[str], notified: Places, published: Places) -> Findings:
    for channel in durable:
        if channel in notified and channel not in published:
            yield warning(
                "channels",
                f"The function {notified[channel]} notifies {channel!r}, which is read durably: a "
                "plain NOTIFY reaches no durable subscription.",
                f"Have it execute: PERFORM pgnotifier.publish({channel!r}, …).",
            )
