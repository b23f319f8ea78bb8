"""A bookshop as a Django project, in which changed rows start work."""

from bookshop.celery import app

__all__ = ["app"]
