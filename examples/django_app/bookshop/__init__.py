"""A bookshop that Django serves, and whose work is done when rows change."""

from bookshop.celery import app

__all__ = ["app"]
