"""The collector for Prometheus, without a server."""

import os
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from pgnotifier import ConfigurationError, Notifier
from pgnotifier._health.health_server import pages
from pgnotifier.cli.metrics import expose_metrics
from pgnotifier.contrib._metrics.naming import name_notifiers
from pgnotifier.contrib._metrics.table import METRICS
from pgnotifier.contrib.prometheus import Collector, expose, observe_publishing
from pgnotifier.contrib.prometheus.exposing import make_page


def collect(notifiers):
    registry = CollectorRegistry()
    registry.register(Collector(notifiers))
    return generate_latest(registry).decode()


@pytest.mark.parametrize(
    ("db_conf", "name"),
    [
        ("dbname=shop", "shop"),
        ("postgresql://u:s3cret@h/caf%C3%A9", "café"),
        ({"host": "h"}, "default"),
        (lambda: "dbname=shop", "default"),
    ],
)
def test_a_notifier_has_the_name_of_its_database(db_conf, name):
    """The name is known without connecting, or it is a fixed one."""
    assert list(name_notifiers(Notifier(db_conf))) == [name]


def test_names_of_several():
    """Notifiers of one database are numbered; given names are kept."""
    one, other, third = (Notifier(f"dbname={name}") for name in ("a", "a", "b"))
    assert name_notifiers([one, other, third]) == {"a": one, "a-2": other, "b": third}
    assert name_notifiers({"mine": one}) == {"mine": one}


def test_a_notifier_that_never_ran():
    """Its state is shown, and its counts are zero; what isn't known has no sample."""
    page = collect({"shop": Notifier("dbname=shop")})
    assert 'pgnotifier_state{notifier="shop",state="stopped"} 1.0' in page
    assert 'pgnotifier_received_total{notifier="shop"} 0.0' in page
    assert "pgnotifier_queue_usage_ratio{" not in page


def test_names_are_escaped():
    """Any name of a channel or a notifier comes out as UTF-8 in one line."""
    metric = next(one for one in METRICS if one.name == "channels")
    page = collect({'a"b\\c\nd\udcff\x1b[31m': Notifier("dbname=shop")})
    (line,) = [one for one in page.splitlines() if one.startswith(metric.prometheus_name + "{")]
    assert line == 'pgnotifier_channels{notifier="a\\"b\\\\c\\nd\\\\udcff\x1b[31m"} 0.0'


def test_many_channels():
    """With more than a thousand channels, there is no series for each."""
    (metric,) = [one for one in METRICS if one.name == "channel_received"]
    status = Notifier("dbname=shop").status()

    counts = {str(n): n for n in range(1000)}
    assert len(list(metric.read(replace(status, channel_counts=counts)))) == 1000
    counts["one more"] = 1
    assert list(metric.read(replace(status, channel_counts=counts))) == []


def test_in_a_forked_child():
    """A child shows nothing of notifiers that run in its parent only."""
    collector = Collector({"shop": Notifier("dbname=shop")})
    read, write = os.pipe()
    if not (pid := os.fork()):
        found = [sample for family in collector.collect() for sample in family.samples]
        os.write(write, b"%d" % len(found))
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 10) == b"1"  # the version
    os.close(read)
    os.close(write)


def test_a_collector_in_the_registry_too(monkeypatch):
    """The page has each metric once, even if the user has registered a `Collector`."""
    mine = CollectorRegistry()
    mine.register(Collector({"shop": Notifier("dbname=shop")}))
    monkeypatch.setattr("pgnotifier.contrib.prometheus.exposing.REGISTRY", mine)
    page = make_page([Notifier("dbname=shop")]).body.decode()
    assert page.count("# TYPE pgnotifier_state gauge") == 1


def test_a_missing_directory(monkeypatch, tmp_path):
    """`expose` names a directory for several processes that doesn't exist."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=r"PROMETHEUS_MULTIPROC_DIR names '.*none', which"):
        expose()


def test_the_histogram_is_made_once():
    """Asking for it again for the same registry changes nothing."""
    registry = CollectorRegistry()
    observe_publishing(registry)
    observe_publishing(registry)
    text = generate_latest(registry).decode()
    assert text.count("# TYPE pgnotifier_publish_duration_seconds histogram") == 1
    assert 'pgnotifier_publish_duration_seconds_count{kind="notify"} 0.0' in text


def test_commands_need_a_health_port():
    """`--metrics` is refused without a port, of the command or of a notifier's own."""
    notifier = Notifier("dbname=shop")
    with pytest.raises(ConfigurationError, match="metrics need a health port: --health-port PORT"):
        expose_metrics(None, [notifier])
    pages.pop("/metrics", None)
    expose_metrics(None, [notifier, Notifier("dbname=shop", health_port=8080)])
    assert pages.pop("/metrics") is make_page
