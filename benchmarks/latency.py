"""Measure the time from a NOTIFY to its task on a worker: `python benchmarks/latency.py`.

Compares pgnotifier to the loop `for n in connection.notifies(): task.delay(json.loads(n.payload))`,
with one Celery worker for both (pool `solo`) on Valkey. The time is measured from before the NOTIFY
is sent to the first statement of the task. Both listeners run all the time. Each gets one second of
notifications in turn, so that the load of the machine affects both.

There are two loads: 50 a second, and half of the maximum that the slower of the two can handle.
"""

import statistics

from commandline import Settings, run
from names import LOOP, OURS
from pipeline import Pipeline, running_pipeline
from results import Limit, Row, Section
from rounds import divide, take_turns
from servers import Servers

CALM = 50
"""Notifications a second."""
CALM_TURNS, BUSY_TURNS = 10, 3
"""Seconds for each competitor in each round."""
SATURATING = 2000
"""Notifications in the burst that measures how many tasks a second can be run."""
LIMIT = Limit(1.2, at_most=True, target=1.0)


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare the latencies at both loads."""
    names = [OURS, LOOP]
    with running_pipeline(servers.dsn, servers.redis_url) as pipeline:
        burst = settings.count(SATURATING)
        most = take_turns(
            names, min(3, settings.rounds), lambda name: saturate(pipeline, name, burst)
        )
        slower = min(statistics.median(rates) for rates in most.values())
        sections = []
        for load, rate, turns, limit in (
            (f"{CALM} a second", float(CALM), CALM_TURNS, LIMIT),
            ("half of saturation", max(1.0, slower / 2), BUSY_TURNS, None),
        ):
            many = 1 if settings.quick else turns
            found = take_latencies(pipeline, names, settings.rounds, many, rate)
            sections.append(compare(f"latency of tasks at {load}", found, limit))
    saturation = Section("tasks run at saturation", "a second", f"{OURS} / each")
    saturation.rows.append(Row(OURS, most[OURS]))
    saturation.rows.append(Row(LOOP, most[LOOP], divide(most[OURS], most[LOOP])))
    return [*sections, saturation]


def saturate(pipeline: Pipeline, name: str, count: int) -> float:
    """Return how many tasks a second are run while there is always another one waiting."""
    return count / max(pipeline.send_burst(name, count))


def take_latencies(
    pipeline: Pipeline, names: list[str], rounds: int, turns: int, rate: float
) -> dict[str, list[list[float]]]:
    """Return, by competitor, the latencies of each round, in seconds."""

    def take_a_second(name: str) -> list[float]:
        return pipeline.send_steadily(name, max(1, int(rate)), rate)

    found: dict[str, list[list[float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, seconds in take_turns(names, turns, take_a_second).items():
            found[name].append([latency for second in seconds for latency in second])
    return found


def compare(title: str, found: dict[str, list[list[float]]], limit: Limit | None) -> Section:
    """Return a section of medians and 99th percentiles, in milliseconds."""
    section = Section(title, "milliseconds", f"{OURS} / each, less is better")
    for percent in (50, 99):
        ours, theirs = ([find_percentile(one, percent) for one in found[n]] for n in (OURS, LOOP))
        section.rows.append(Row(f"{OURS}, p{percent}", ours))
        section.rows.append(Row(f"{LOOP}, p{percent}", theirs, divide(ours, theirs), limit))
    return section


def find_percentile(latencies: list[float], percent: int) -> float:
    """Return a percentile in milliseconds."""
    place = min(len(latencies) - 1, len(latencies) * percent // 100)
    return sorted(latencies)[place] * 1000


if __name__ == "__main__":
    run(__doc__, [benchmark])
