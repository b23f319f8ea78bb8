"""The app of django-celery-outbox, which its setting CELERY_OUTBOX_APP names."""

import os

from django_celery_outbox import OutboxCelery

app = OutboxCelery("bench", broker=os.environ["BENCH_BROKER"])
