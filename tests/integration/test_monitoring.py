"""Metrics, as a real Prometheus scrapes them, and the examples' dashboard and alerts."""

import json
import re
import urllib.error
import urllib.request

import psycopg
import pytest
from prometheus_server import EXAMPLES, Prometheus, promtool

from pgnotifier._health.health_server import pages
from pgnotifier.contrib._metrics.table import METRICS, PUBLISH_NAME
from pgnotifier.contrib.prometheus import expose
from pgnotifier.durable import publish

DASHBOARD = json.loads((EXAMPLES / "dashboard.json").read_text())
QUERIES = [
    (panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]
]
ALERTS = re.findall(r"alert: (\w+)\n +expr: (.*)", (EXAMPLES / "alerts.yml").read_text())
UNKNOWN = ("pgnotifier_log_quota_bytes",)
"""What the listener of the test has no number for, as it has set no quota."""


@pytest.fixture
def exposed():
    """Answer `/metrics` on the health ports of this process, for one test."""
    expose()
    yield
    del pages["/metrics"]


def scrape(port, path="/metrics"):
    """Return the content type and the text of the page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


@pytest.fixture
def monitored(exposed, log, make_notifier, free_port, eventually):
    """Return the port of a listener that has delivered something in each way, and has failed."""
    notifier = make_notifier(log.dsn, health_port=free_port)
    notifier.subscribe("board", "orders", lambda *_: None)
    notifier.subscribe("bad", "orders", lambda *_: 1 / 0)
    notifier.subscribe("invoice", "paid", lambda *_: None, durable=True)
    for number in range(3):
        notifier.notify("orders", number)
    with psycopg.connect(log.dsn) as connection:
        publish(connection, "paid", {"order": 1})
    eventually(lambda: notifier.status().delivered_counts == {"InlineDispatcher": 7})
    eventually(lambda: notifier.status().durable[0].last_id)
    eventually(lambda: notifier.status().log is not None)
    return free_port


def test_a_scrape(monitored):
    """The page has each metric of the table that is known, and promtool finds nothing wrong."""
    content_type, page = scrape(monitored)
    assert content_type.startswith("text/plain; version=")
    found = set(re.findall(r"^(pgnotifier\w+?)(?:_bucket|_sum|_count|_created)?[{ ]", page, re.M))
    known = {one.prometheus_name for one in METRICS} - {*UNKNOWN}
    assert known | {"pgnotifier_build_info", f"pgnotifier_{PUBLISH_NAME}_seconds"} <= found
    assert 'pgnotifier_channel_received_total{channel="orders",notifier=' in page
    assert re.search(r"^pgnotifier_failed_total\{.*\} 3\.0$", page, re.M)
    assert re.search(r'^pgnotifier_delivered_total\{dispatcher="InlineD.*\} 7\.0$', page, re.M)
    assert re.search(r'^pgnotifier_lag_seconds\{channel="paid",.*="invoice"\} ', page, re.M)
    assert "process_resident_memory_bytes" in page
    promtool(
        "check", "metrics", given=re.sub(r"(?m)^(# (HELP|TYPE) )?(python|process)_.*\n", "", page)
    )


@pytest.mark.gate
def test_the_dashboard_and_the_alerts(monitored, eventually):
    """A real Prometheus finds something for each query of the dashboard, and runs the alerts."""
    with Prometheus(monitored) as prometheus:
        eventually(lambda: prometheus.query("count_over_time(up[1m]) > 4"), timeout=60)
        for title, query in QUERIES:
            query = re.sub(r"\$__(rate_interval|range)", "20s", query).replace("$notifier", ".*")
            if not any(name in query for name in UNKNOWN):
                assert prometheus.query(query), (title, query)

        def rules():
            (group,) = prometheus.ask("/api/v1/rules")["groups"]
            return [(one["name"], one["health"]) for one in group["rules"]]

        eventually(lambda: rules() == [(name, "ok") for name, _ in ALERTS])
        assert prometheus.query("ALERTS") == []


def test_the_alerts_by_promtool():
    """Promtool accepts the configuration and the rules, and each alert passes its unit test."""
    promtool("check", "config", EXAMPLES / "prometheus.yml")
    promtool("test", "rules", EXAMPLES / "alerts_test.yml")
    tested = re.findall(r"alertname: (\w+)", (EXAMPLES / "alerts_test.yml").read_text())
    assert {name for name, _ in ALERTS} == set(tested)


def test_the_examples_name_metrics_that_exist():
    """The dashboard and the alerts use names of the table, and the dashboard shows them all."""
    names = {one.prometheus_name for one in METRICS}
    publish = f"pgnotifier_{PUBLISH_NAME}_seconds"
    shown = set(re.findall(r"pgnotifier_\w+", " ".join(query for _, query in QUERIES)))
    alerted = set(re.findall(r"pgnotifier_\w+", " ".join(query for _, query in ALERTS)))
    assert {one for one in shown if not one.startswith(publish)} <= names
    assert alerted <= names
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in DASHBOARD["panels"]]
    for number, (x, y, w, h) in enumerate(places):
        assert x + w <= 24
        for x2, y2, w2, h2 in places[:number]:
            assert x >= x2 + w2 or x2 >= x + w or y >= y2 + h2 or y2 >= y + h


def test_other_paths(monitored):
    """The probes answer as before, and the page of another path names all paths."""
    assert json.loads(scrape(monitored, "/readyz")[1])["ok"] is True
    with pytest.raises(urllib.error.HTTPError) as refused:
        scrape(monitored, "/other")
    with refused.value as answer:
        assert json.load(answer)["paths"] == ["/healthz", "/readyz", "/metrics"]


def test_counts_never_go_back(exposed, log, make_notifier, eventually):
    """What a dispatcher has delivered still counts once its last subscription is gone."""
    from pgnotifier import ThreadDispatcher

    notifier = make_notifier(log.dsn)
    notifier.subscribe("stays", "a", lambda *_: None)
    notifier.subscribe("goes", "b", lambda *_: None, dispatcher=ThreadDispatcher())
    notifier.notify("b", 1)
    eventually(lambda: notifier.status().delivered_counts.get("ThreadDispatcher") == 1)
    notifier.unsubscribe("goes", "b")
    eventually(lambda: len(notifier.status().dispatchers) == 1)
    assert notifier.status().delivered_counts == {"InlineDispatcher": 0, "ThreadDispatcher": 1}
