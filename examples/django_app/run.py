"""Run the whole example with one command, which starts its own servers: `python run.py`.

With `--serve`, the shop stays open at http://127.0.0.1:8000 until Ctrl-C.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.parse import urlencode

from pgnotifier.testing import Command, PostgresServer, valkey_server

HERE = Path(__file__).parent
SERVES = "--serve" in sys.argv
TIMEOUT = 60  # seconds


def find_port() -> int:
    """Return a port for the server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 8000 if SERVES else 0))
        return int(probe.getsockname()[1])


def order(url: str, item: str) -> None:
    """Place an order with the page's form, as a browser does."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    form = browser.open(url, timeout=30).read().decode()
    (token,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
    filled_in = urlencode({"csrfmiddlewaretoken": token, "item": item}).encode()
    browser.open(url, filled_in, timeout=30).close()


def read(url: str) -> list[str]:
    """Return the items of the page's lists."""
    with urllib.request.urlopen(url, timeout=30) as page:
        return re.findall(r"<li>(.*?)</li>", page.read().decode())


with (
    PostgresServer() as server,
    server.database() as shop,
    server.database() as audit,
    valkey_server() as broker,
):
    env = {
        **os.environ,
        "BOOKSHOP_DSN": shop,
        "BOOKSHOP_AUDIT_DSN": audit,
        "BOOKSHOP_BROKER": broker,
    }
    for alias in ("default", "audit"):
        migrate = ["manage.py", "migrate", "--verbosity", "0", "--database", alias]
        subprocess.run([sys.executable, *migrate], cwd=HERE, env=env, check=True)
    if SERVES:
        admin = {"DJANGO_SUPERUSER_PASSWORD": "admin", **env}
        create = ["manage.py", "createsuperuser", "--noinput", "--username", "admin"]
        create += ["--email", "admin@example.org"]
        subprocess.run([sys.executable, *create], cwd=HERE, env=admin, check=True)
    print("two databases are migrated", flush=True)
    port = find_port()
    url = f"http://127.0.0.1:{port}/"
    worker = Command(
        "celery -A bookshop worker --loglevel INFO", env=env, directory=HERE, ready="ready."
    )
    listener = Command(
        "python manage.py pgnotifier --noreload", env=env, directory=HERE, ready="listening"
    )
    web = Command(
        f"python manage.py runserver --noreload {port}",
        env=env,
        directory=HERE,
        ready="Quit the server",
    )
    with worker, listener, web:
        order(url, "a novel")
        order(url, "an atlas")
        deadline = time.monotonic() + TIMEOUT
        # The page reads one database, then the other: the first one may have changed meanwhile.
        while len(found := read(url)) < 6 or found != read(url):
            if time.monotonic() > deadline:
                sys.exit(f"after {TIMEOUT} s: {found}\n{worker.log}{listener.log}{web.log}")
            time.sleep(0.2)
        print("\n".join(sorted(found)), flush=True)
        if SERVES:
            print(f"Look at {url}, and at {url}admin/ as admin, with the password admin")
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(1)
