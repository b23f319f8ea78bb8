"""Ordinary Celery tasks, which don't use pgnotifier."""

from typing import Any

from celery.utils.log import get_task_logger

from shop.celery import app
from shop.database import execute

logger = get_task_logger(__name__)


@app.task
def audit(id: str, channel: str, payload: dict[str, Any], pid: int, ledger: str) -> None:
    """Record which database session changed what."""
    execute(
        "INSERT INTO audits (ledger, channel, row_id, pid) VALUES (%s, %s, %s, %s)",
        (ledger, channel, payload["id"], pid),
    )
    logger.info("%s: row %s of %s, by session %s", id, payload["id"], channel, pid)
