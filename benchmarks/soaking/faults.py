"""The faults: each breaks something, repairs it, and returns a text that says what it did.

They don't wait until the listener has recovered, so the next one may hit it during its recovery.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping

import psycopg

from .proxy import ANSWERS, EVERYTHING, FAIR, FaultyProxy, Weather
from .stage import CHANNELS, Stage

Fault = Callable[[Stage], str]

BURST = 20_000
EXTRA = ("extra 0", "extra 1", "extra 2")
LISTENING = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgnotifier'"
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name IN ('pgnotifier', 'sender')"


# --- the network ---


def delay(stage: Stage, proxy: FaultyProxy) -> str:
    seconds = stage.rng.uniform(0.01, 1.0)
    return _endure(stage, proxy, Weather(delay=seconds), f"each chunk delayed by {seconds:.2f} s")


def throttle(stage: Stage, proxy: FaultyProxy) -> str:
    rate = stage.rng.uniform(5_000, 100_000)
    return _endure(stage, proxy, Weather(rate=rate), f"throttled to {rate / 1000:.0f} KB/s")


def half_open(stage: Stage, proxy: FaultyProxy) -> str:
    return _endure(stage, proxy, Weather(swallows=EVERYTHING), "everything swallowed")


def hush(stage: Stage, proxy: FaultyProxy) -> str:
    return _endure(stage, proxy, Weather(swallows=ANSWERS), "answers swallowed")


def cut(_stage: Stage, proxy: FaultyProxy) -> str:
    proxy.cut()
    return "connections cut"


def reset(_stage: Stage, proxy: FaultyProxy) -> str:
    proxy.reset()
    return "connections reset"


def _endure(stage: Stage, proxy: FaultyProxy, weather: Weather, words: str) -> str:
    seconds = stage.rng.uniform(0.5, 4.0)
    proxy.weather = weather
    try:
        time.sleep(seconds)
    finally:
        proxy.weather = FAIR
    return f"{words} for {seconds:.1f} s"


# --- the servers ---


def terminate(stage: Stage) -> str:
    with stage.control.connect() as admin:
        found = admin.execute(f"SELECT pg_terminate_backend(pid) FROM ({LISTENING}) AS l")
        return f"pg_terminate_backend() of {found.rowcount} sessions"


def kill_backend(stage: Stage) -> str:
    # PostgreSQL then ends all sessions, and recovers as it does after a crash.
    with stage.control.connect() as admin:
        query = stage.rng.choice((LISTENING, BACKENDS))
        own = admin.info.backend_pid
        pids = sorted(pid for (pid,) in admin.execute(query) if pid != own)
    if not pids:
        return "no backend to kill"
    os.kill(stage.rng.choice(pids), signal.SIGKILL)
    return f"kill -9 of one of {len(pids)} backends"


def kill_postgres(stage: Stage) -> str:
    stage.postgres.kill()
    return _stay_down(stage, stage.postgres.start, "PostgreSQL killed")


def restart_postgres(stage: Stage) -> str:
    stage.postgres.stop("fast")
    return _stay_down(stage, stage.postgres.start, "PostgreSQL stopped 'fast'")


def kill_valkey(stage: Stage) -> str:
    with stage.tasks.paused():
        stage.valkey.kill()
        return _stay_down(stage, stage.valkey.start, "Valkey killed")


def _stay_down(stage: Stage, start: Callable[[], None], words: str) -> str:
    seconds = stage.rng.choice((0.0, stage.rng.uniform(0.1, 2.0)))
    time.sleep(seconds)
    start()
    return f"{words}, started {seconds:.1f} s later"


# --- the listener ---


def stop_listener(stage: Stage) -> str:
    seconds = stage.rng.uniform(1.0, 3.0)
    with stage.listener.stopped():
        time.sleep(seconds)
    return f"listener stopped with SIGSTOP for {seconds:.1f} s"


def burst(stage: Stage) -> str:
    stage.send([stage.rng.choice(stage.senders.channels) for _ in range(BURST)])
    return f"{BURST:,} notifications and entries in one transaction"


def change_channels(stage: Stage) -> str:
    done = []
    for channel in stage.rng.sample(EXTRA, 2):
        if channel in stage.extra:
            _remove(stage, channel)
            done.append(f"{channel!r} removed")
        else:
            stage.send([channel] * 3, expected=False)
            stage.listener.ask("add", channel)
            stage.extra.add(channel)
            stage.senders.change([*CHANNELS, *sorted(stage.extra)])
            done.append(f"{channel!r} added")
    return ", ".join(done)


def _remove(stage: Stage, channel: str) -> None:
    # Notifications of a removed channel that are still in a buffer are dropped. So empty the
    # buffers first, so that it is known what has to be delivered.
    stage.extra.discard(channel)
    stage.senders.change([*CHANNELS, *sorted(stage.extra)])
    stage.flush([channel])
    stage.listener.ask("remove", channel)
    stage.send([channel] * 3, expected=False)


def restart_notifier(stage: Stage) -> str:
    stage.listener.ask("restart")
    return "Notifier.restart()"


# --- all of them ---


def _on_the_way(name: str, fault: Callable[[Stage, FaultyProxy], str]) -> dict[str, Fault]:
    return {
        f"{name} to PostgreSQL": lambda stage: f"PostgreSQL: {fault(stage, stage.to_postgres)}",
        f"{name} to Valkey": lambda stage: f"Valkey: {fault(stage, stage.to_valkey)}",
    }


FAULTS: Mapping[str, Fault] = {
    **_on_the_way("delay", delay),
    **_on_the_way("throttle", throttle),
    **_on_the_way("half-open", half_open),
    **_on_the_way("hush", hush),
    **_on_the_way("cut", cut),
    **_on_the_way("reset", reset),
    "terminate": terminate,
    "kill backend": kill_backend,
    "kill PostgreSQL": kill_postgres,
    "restart PostgreSQL": restart_postgres,
    "kill Valkey": kill_valkey,
    "stop listener": stop_listener,
    "burst": burst,
    "change channels": change_channels,
    "restart notifier": restart_notifier,
}


def inflict(stage: Stage, name: str) -> str:
    """Cause one of the faults. Wait for a server that is still starting after the last fault."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return FAULTS[name](stage)
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
