"""The names of the competitors in the tables."""

OURS = "pgnotifier"
EARLIER = "pgnotifier 0.0.10"

# Into callbacks.
BARE = "bare psycopg drain"
GENERATOR = "psycopg generator"
PSYCOPG2 = "psycopg2 poll loop"
ASYNCPG = "asyncpg listener"

SIGNAL = "Django signal"

# Into tasks.
LOOP = "task.delay loop"
SHARED = "loop, one producer"
CONFIRMED = "loop, with confirms"
RAW = "ready-made messages"
RAW_MANY = "ready-made, many each"

KOMBU = "kombu's producer"

# Into jobs.
ENQUEUE = "queue.enqueue loop"
ENQUEUE_MANY = "enqueue_many loop"

# Idle.
IDLE = "bare psycopg"

# Tracing.
SENTRY = "Sentry"
OPENTELEMETRY = "OpenTelemetry"

# Observed callbacks.
METRICS = "scraped every second"
SPANS_NONE = "no span is recorded"
SPANS_SOME = "1 % of spans"
SPANS_ALL = "all spans"
SENTRY_SOME = "1 % of Sentry's transactions"

# Durably.
OUTBOX = "outbox"
OUTBOX_NOTIFY = "outbox, NOTIFY each"
OUTBOX_APPLY = "outbox, apply_async"
FUNCTION = "pgnotifier.publish()"
PGQUEUER = "pgqueuer"
PROCRASTINATE = "procrastinate"
PGPUBSUB = "django-pgpubsub"
DJANGO_OUTBOX = "django-celery-outbox"
PLAIN = "plain NOTIFY"

# Enqueueing.
AT_ONCE = "pgnotifier, each at once"
MANY = "pgnotifier, many"
INSERT = "one INSERT of the bytes"
ON_COMMIT = "delay_on_commit"
