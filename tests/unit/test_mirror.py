"""Each module of the core has its test file, as the trees mirror each other, and is short."""

from pathlib import Path

import pytest

import pgnotifier

TESTS = Path(__file__).parents[1]
PACKAGE = Path(pgnotifier.__file__).parent
ELSEWHERE = {
    "_connection/connecting.py": "faults/test_down.py",
    "_connection/encoding.py": "integration/test_encodings.py",
    "_connection/inheriting.py": "faults/test_fork.py",
    "_connection/publisher.py": "integration/test_notify.py",
    "_connection/session_settings.py": "faults/test_settings.py",
    "_connection/wakeup.py": "unit/listener/test_reader_connection.py",
    "_delivery/attempts.py": "unit/delivery/test_deliverer.py",
    "_delivery/delays.py": "integration/test_inquiry.py",
    "_delivery/decoding.py": "unit/delivery/test_deliverer.py",
    "_durable/describing.py": "integration/test_durable.py",
    "_durable/leftovers.py": "faults/test_durable.py",
    "_log/by_psycopg.py": "integration/celery/test_outbox.py",
    "_log/outbox_calls.py": "unit/log/test_outbox_redaction.py",
    "_log/outboxes.py": "unit/log/test_opening.py",
    "_durable/ahead.py": "unit/log/test_ahead.py",
    "_durable/log_session.py": "integration/test_durable.py",
    "_durable/moves.py": "integration/test_seeking.py",
    "_durable/news.py": "integration/test_news.py",
    "_durable/pooling.py": "faults/test_poolers.py",
    "_durable/reports.py": "integration/test_durable.py",
    "_durable/retries.py": "integration/test_durable.py",
    "_durable/rows.py": "integration/test_durable.py",
    "_durable/translating.py": "integration/test_durable.py",
    "_durable/sharing.py": "integration/test_sharing.py",
    "_durable/source.py": "faults/test_durable.py",
    "_durable/sources.py": "integration/test_durable.py",
    "_health/health_server.py": "integration/test_health.py",
    "_inquiry/asking.py": "integration/test_inquiry.py",
    "_inquiry/marks.py": "integration/test_inquiry.py",
    "_inquiry/report.py": "unit/inquiry/test_messages.py",
    "_notifier/reporting.py": "integration/test_inquiry.py",
    "_runtime/version.py": "unit/cli/test_cli.py",
    "_listener/commands.py": "integration/test_live_changes.py",
    "_listener/connection_attempts.py": "faults/test_down.py",
    "_listener/handover.py": "faults/test_moving.py",
    "_listener/heartbeat.py": "faults/test_half_open.py",
    "_listener/leadership.py": "integration/test_taking_over.py",
    "_durable/dropping.py": "integration/test_limits.py",
    "_durable/upkeep.py": "integration/test_limits.py",
    "_listener/listener.py": "integration/test_listening.py",
    "_listener/listening.py": "faults/test_reconnect.py",
    "_listener/new_connection.py": "integration/test_listening.py",
    "_listener/pause.py": "faults/test_pause.py",
    "_listener/queue_usage.py": "faults/test_queue_usage.py",
    "_listener/state.py": "unit/test_status.py",
    "_log/composing.py": "integration/test_publishing_rules.py",
    "_log/outbox_values.py": "unit/log/test_outbox_queries.py",
    "_log/outbox_entries.py": "integration/celery/test_outbox.py",
    "_log/publishing.py": "integration/test_publishing.py",
    "_log/refusals.py": "integration/test_publishing_rules.py",
    "_log/sessions.py": "integration/test_publishing.py",
    "_log/guard.py": "faults/test_copies.py",
    "_notifier/both_changes.py": "integration/test_durable.py",
    "_notifier/changes.py": "unit/test_notifier.py",
    "_notifier/durable_changes.py": "integration/test_durable.py",
    "_notifier/runnable.py": "unit/test_notifier.py",
    "_payload/literal.py": "unit/test_payload.py",
    "_payload/nesting.py": "unit/test_payload.py",
    "_payload/numbers.py": "unit/test_payload.py",
    "_payload/plain.py": "unit/test_payload.py",
    "_registry/change.py": "unit/registry/test_writer.py",
    "_registry/checks.py": "unit/registry/test_writer.py",
    "_triggers/creating.py": "django/test_trigger_migrations.py",
    "_triggers/declaration.py": "unit/test_triggers.py",
    "_triggers/functions.py": "integration/test_trigger_payloads.py",
    "_triggers/installed.py": "unit/test_triggers.py",
    "_triggers/preparing.py": "integration/test_trigger_payloads.py",
    "_triggers/quoting.py": "django/test_trigger_properties.py",
    "_triggers/row_body.py": "integration/test_trigger_payloads.py",
    "_triggers/slots.py": "integration/test_trigger_payloads.py",
    "_triggers/statement_body.py": "integration/test_trigger_payloads.py",
    "_triggers/statements.py": "integration/test_trigger_payloads.py",
    "dispatchers/claiming.py": "integration/test_forgetting.py",
    "dispatchers/asyncio.py": "integration/test_asyncio.py",
    "dispatchers/in_process.py": "contract",
    "dispatchers/inline.py": "integration/test_callbacks.py",
    "dispatchers/threads.py": "unit/dispatchers/test_thread_dispatcher.py",
    "durable.py": "unit/log/test_installing.py",
    "durability.py": "integration/test_durable.py",
    "gathering.py": "unit/delivery/test_batching.py",
}
"""The modules that a test file with another name covers."""


def core_modules():
    """Yield the modules of the core, relative to the package."""
    for pattern in ("*.py", "_*/*.py", "dispatchers/*.py"):
        for path in sorted(PACKAGE.glob(pattern)):
            if not path.name.startswith("__"):
                yield path.relative_to(PACKAGE)


def mirror(module):
    """Return where the test file of a module belongs: for `_a/b.py` it is `unit/a/test_b.py`."""
    *folders, name = module.parts
    return "/".join(["unit", *(folder.lstrip("_") for folder in folders), f"test_{name}"])


@pytest.mark.parametrize("module", [*core_modules()], ids=str)
def test_each_module_has_its_tests(module):
    """A module has a test file of its name or one that is listed, but not both."""
    mirrored = (TESTS / mirror(module)).exists()
    listed = ELSEWHERE.get(module.as_posix())
    assert mirrored is (listed is None), f"{mirror(module)} exists: {mirrored}; listed: {listed}"
    assert listed is None or (TESTS / listed).exists()


@pytest.mark.parametrize("module", [*core_modules()], ids=str)
def test_each_module_is_short(module):
    """A module has at most 400 lines."""
    assert len((PACKAGE / module).read_text().splitlines()) <= 400


def test_what_is_listed_exists():
    """Each listed module exists."""
    assert set(ELSEWHERE) <= {module.as_posix() for module in core_modules()}
