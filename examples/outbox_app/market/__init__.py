"""A small market: an order and its task are one transaction."""

from market.celery import app

__all__ = ["app"]
