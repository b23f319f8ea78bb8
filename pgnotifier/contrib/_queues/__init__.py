"""Code that the dispatchers for Celery, RQ and Django's tasks share."""
