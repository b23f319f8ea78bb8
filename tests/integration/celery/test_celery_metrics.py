"""`worker --pgnotifier --pgnotifier-metrics`: one page for the worker and its children."""

import re
import urllib.request

SOURCE = """
notifier = Notifier(os.environ["DSN"], dispatcher=CeleryDispatcher(app))

@notifier.on("orders", id="relay")
def relay(id, channel, payload, pid):
    notifier.notify("others", payload)
    write("relayed", payload)

@notifier.on("others", id="end")
def end(id, channel, payload, pid):
    write("ended", payload, os.getpid(), os.getppid())
"""


def scrape(port):
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


def test_a_worker_with_children(open_shop, free_port, tmp_path, eventually):
    """The listener's metrics are the main process's, and publications those of its children."""
    directory = tmp_path / "metrics"
    directory.mkdir()
    shop = open_shop(SOURCE)
    worker = shop.worker(
        *("--pgnotifier", "--pgnotifier-metrics", "--pgnotifier-health-port", str(free_port)),
        *("-P", "prefork", "-c", "2", "--max-tasks-per-child", "2"),
        PROMETHEUS_MULTIPROC_DIR=str(directory),
    )
    worker.wait_for("listening 2 channels")
    shop.notify(*(("orders", str(number)) for number in range(6)))
    assert len(shop.wait_written("ended", 6)) == 6

    def is_complete():
        page = scrape(free_port)
        received = re.search(r"^pgnotifier_received_total\{.*\} (.*)$", page, re.M)[1]
        count = r'^pgnotifier_publish_duration_seconds_count\{kind="notify"\} (.*)$'
        published = re.search(count, page, re.M)
        return (float(received), published and float(published[1])) == (12, 6)

    eventually(is_complete, timeout=30)
    assert "Traceback" not in worker.log


def test_metrics_need_a_port(open_shop):
    """Without a health port, the worker ends with an error that names the option."""
    shop = open_shop(SOURCE)
    worker = shop.celery("worker", "--pgnotifier", "--pgnotifier-metrics", "-P", "solo")
    assert worker.wait() == 2
    assert "metrics need a health port: --pgnotifier-health-port PORT" in worker.log
    assert "Traceback" not in worker.log
