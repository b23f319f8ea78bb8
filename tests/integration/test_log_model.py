"""The log against a model: whatever happens, each subscription gets what it must get."""

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from log_machine import LogMachine, Shop

from pgnotifier.testing import PostgresServer

IS_THOROUGH = settings().max_examples >= 100
SETTINGS = (
    settings(max_examples=80) if IS_THOROUGH else settings(max_examples=12, stateful_step_count=40)
)


@pytest.fixture
def shop(pgnotifier_postgres):
    """Yield a shop with two servers."""
    with PostgresServer() as other:
        shop = Shop([pgnotifier_postgres, other])
        yield shop
        shop.close()


@pytest.mark.servers
@pytest.mark.long
@pytest.mark.timeout(1200 if IS_THOROUGH else 180)
def test_the_model(shop):
    """All that is committed is delivered, in causal order; nothing else is, nor anything twice."""

    class Machine(LogMachine):
        restores_often = IS_THOROUGH

    Machine.shop = shop
    run_state_machine_as_test(Machine, settings=SETTINGS)
