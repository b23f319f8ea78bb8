"""The groups of tests that share a server: one process of `make test` runs all tests of a group."""

import pytest


@pytest.mark.xdist_group("groups")
def test_a_group_is_part_of_the_id(request):
    """pytest-xdist finds groups by the ids; without them, each process would start RabbitMQ."""
    has_groups = getattr(request.config.option, "loadgroup", False)
    assert request.node.nodeid.endswith("@groups" if has_groups else "id")
