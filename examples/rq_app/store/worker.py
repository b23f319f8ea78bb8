"""What `rq worker --config store.worker` reads: Redis' address, and the names of the queues.

The subscriptions are imported here, once for all jobs: each job runs in a fork of the worker, which
would otherwise have to import them itself.
"""

import store.notifications
from store.settings import REDIS

__all__ = ["store"]

REDIS_URL = REDIS
QUEUES = ["default", "images"]
