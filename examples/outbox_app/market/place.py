"""Place an order in each of the ways, for each accident: `python -m market.place shop`.

The argument `relay` or `broker` says that this one has been killed before.
"""

import os
import sys

import psycopg
from kombu.exceptions import OperationalError

from market.accidents import AROUND_IT, IN_THE_SHOP, CardRefusedError, Moments
from market.settings import DSN
from market.ways import WAYS

found = AROUND_IT.get(sys.argv[1])
for accident in IN_THE_SHOP if found is None else [found]:
    for place in WAYS:
        # Like a web server that forks. What is killed is the child.
        if child := os.fork():
            os.waitpid(child, 0)
            continue
        try:
            with psycopg.connect(DSN, autocommit=True) as connection:
                place(connection, accident, Moments(accident))
        except (CardRefusedError, OperationalError):
            pass  # the customer gets an error page
        finally:
            os._exit(0)
