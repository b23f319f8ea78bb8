"""Measure how fast notifications reach callbacks in the process: `python benchmarks/inline.py`.

Compares pgnotifier's InlineDispatcher to code without it: loops with psycopg, psycopg2 and asyncpg
and `json.loads`, and pgnotifier 0.0.10. The bare drain is only psycopg's `consume_input()` and
`notifies()`: the limit of its connection.

Another process sends all notifications in one transaction. The time is measured from the first
callback to the last, so only the receiver counts. Payloads are dicts that contain a list.
"""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commandline import Settings, run
from names import BARE, EARLIER, OURS
from receivers import COMPETITORS, measure
from results import Limit, Section, compare
from rounds import take_turns
from sending import Load
from servers import Servers

COUNT = 100_000
SLOW = 0.2
"""The share of the notifications that 0.0.10 gets, because all would take half a minute."""
LIMITS = {BARE: Limit(0.9, target=1.0)}


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare the receivers."""
    count = settings.count(COUNT)
    with earlier_release(wanted=not settings.quick) as earlier:

        def receive(name: str) -> float:
            given = max(1, int(count * SLOW)) if name == EARLIER else count
            return measure(name, servers.dsn, Load(given, nested=True), earlier).rate

        names = [OURS, *COMPETITORS]
        if earlier is None:
            names.remove(EARLIER)
        rates = take_turns(names, settings.rounds, receive)
    return [compare("callbacks in the process", "a second", rates, OURS, LIMITS)]


@contextmanager
def earlier_release(*, wanted: bool) -> Iterator[Path | None]:
    """Download and unpack 0.0.10; yield its directory, or None if it can't be downloaded."""
    if not wanted:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="pgnotifier-bench-") as directory:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*pip, "--disable-pip-version-check", "--dest", directory, "pgnotifier==0.0.10"],
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = list(Path(directory).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            print(f"{EARLIER} is left out, pip can't fetch it: {done.stderr.strip()[-300:]}\n")
            yield None
            return
        unpacked = Path(directory, "unpacked")
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(unpacked)
        yield unpacked


if __name__ == "__main__":
    run(__doc__, [benchmark])
