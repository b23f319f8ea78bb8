"""A real Prometheus, the system's, and its promtool."""

import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from pgnotifier.testing.process import SupervisedProcess
from pgnotifier.testing.server import Server

EXAMPLES = Path(__file__).parents[2] / "examples" / "monitoring"
CONFIG = """
global: {{scrape_interval: 200ms, evaluation_interval: 200ms}}
rule_files: ["{rules}"]
scrape_configs: [{{job_name: pgnotifier, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""


def find_program(name):
    """Return the path of `prometheus` or `promtool`; skip the test if it is missing."""
    found = shutil.which(name)
    if found is None:
        why = "needs Prometheus: apt install prometheus"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
    return found


def promtool(*args, given=""):
    """Run promtool, and return what it says; the test fails if it finds something wrong."""
    done = subprocess.run(
        [find_program("promtool"), *map(str, args)],
        input=given, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Prometheus(Server):
    """Prometheus, which scrapes a port of this machine five times a second."""

    variable = "PGNOTIFIER_TEST_PROMETHEUS"

    def __init__(self, scraped_port):
        super().__init__()
        self._program = find_program("prometheus")
        self._scraped_port = scraped_port

    def query(self, expression):
        """Return what an expression is now: a list of pairs of labels and text."""
        url = f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        return [(one["metric"], one["value"][1]) for one in self.ask(url)["result"]]

    def ask(self, url):
        """Return the data of an answer of the API."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{url}", timeout=30) as answer:
            found = json.load(answer)
        assert found["status"] == "success"
        return found["data"]

    def _create(self):
        return SupervisedProcess(steps=((signal.SIGKILL, 10.0),), unprivileged=True)

    def _needs_port(self):
        return True

    def _argv(self):
        directory = self._owned().directory
        rules = directory / "alerts.yml"
        rules.write_text((EXAMPLES / "alerts.yml").read_text())
        config = directory / "prometheus.yml"
        config.write_text(CONFIG.format(rules=rules, port=self._scraped_port))
        for one in (rules, config):
            one.chmod(0o644)
        return [
            self._program,
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--storage.tsdb.retention.size=100MB",
        ]

    def _is_ready(self, pid):
        try:
            url = f"http://127.0.0.1:{self._port}/-/ready"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def _prepare(self):
        """Do nothing: it needs no preparation."""
