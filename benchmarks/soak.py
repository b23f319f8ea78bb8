"""Run a soak: cause random faults under load, and account for every notification.

`python benchmarks/soak.py --minutes 10` exits with 1 if a notification was lost outside of a
reported gap, or delivered twice or in the wrong order; if anything that was published durably is
lost, or comes in the wrong order; or if the listener's process has grown.
"""

import argparse
import random
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from soaking.accounting import Ledger
from soaking.faults import BURST, FAULTS, inflict
from soaking.process import ListenerFailedError, Usage
from soaking.stage import CHANNELS, DURABLE, VOLATILE, Stage, set_up

RATE = 1500
OPEN_BOOKS = 180.0
"""Seconds after which explained notifications are forgotten. A later delivery is an offence."""
MORE = Usage(resident=30.0, threads=1, files=2)
"""How much the idle listener may have grown since the first burst."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a soak.

    Attributes:
        faults: The number of faults.
        reconnects: How often the listener reconnected to PostgreSQL.
        before: The resources of the idle listener before the first fault.
        after: The resources of the idle listener after the last fault.
    """

    faults: int
    reconnects: int
    before: Usage
    after: Usage


def soak(stage: Stage, minutes: float, every: float) -> Outcome:
    """Cause a fault every few seconds, then wait until everything is delivered.

    Raises:
        ListenerFailedError: The listener doesn't answer, or doesn't recover.
    """
    stage.listener.ask("add", *VOLATILE)
    stage.listener.ask("keep", *DURABLE)
    stage.send([name for name in CHANNELS for _ in range(BURST // len(VOLATILE))])
    stage.settle()
    stage.listener.ask("restart")
    stage.settle()
    before = stage.listener.usage()
    faults = 0
    with stage.senders:
        ending = time.monotonic() + minutes * 60
        for name in deal(stage.rng):
            begun = time.monotonic()
            did = inflict(stage, name)
            faults += 1
            stage.ledger.settle(time.time() - OPEN_BOOKS)
            print(describe(stage, faults, did), flush=True)
            now = time.monotonic()
            if now >= ending:
                break
            time.sleep(max(0.0, min(begun + every, ending) - now))
    stage.settle()
    reconnects = stage.listener.ask("status")["reconnects"]
    after = stage.listener.usage()
    if given_up := stage.listener.ask("stop"):
        stage.ledger.offend("given up", f"{given_up} deliveries by stop()")
    stage.ledger.settle()
    return Outcome(faults, reconnects, before, after)


def deal(rng: random.Random) -> Iterator[str]:
    """Yield the names of faults without end: all in random order, then all again."""
    while True:
        yield from rng.sample(sorted(FAULTS), len(FAULTS))


def describe(stage: Stage, number: int, did: str) -> str:
    """Return a line about one fault, and the counts after it."""
    totals, ledger = stage.ledger.totals, stage.ledger
    offences = ledger.offences.total()
    return (
        f"{number:4} {time.strftime('%H:%M:%S')}  {did:60} sent {totals.sent:,}, "
        f"called {totals.came['callback']:,}, queued {totals.came['task']:,}, "
        f"gaps {len(ledger.gaps)}, durable {ledger.durable.sent:,}, "
        f"called {ledger.durable.came['callback']:,}, queued {ledger.durable.came['task']:,}"
        + (f", OFFENCES {offences:,}" if offences else "")
    )


def judge(ledger: Ledger, outcome: Outcome) -> None:
    """Record an offence if the listener's process has grown."""
    for name in ("resident", "threads", "files"):
        before, after = getattr(outcome.before, name), getattr(outcome.after, name)
        if after - before > getattr(MORE, name):
            ledger.offend("growth", f"{name}: from {before:.0f} to {after:.0f}")


def print_summary(ledger: Ledger, outcome: Outcome) -> None:
    """Print the totals."""
    totals, durable = ledger.totals, ledger.durable
    before, after = outcome.before, outcome.after
    rows = {
        "faults": f"{outcome.faults:,}",
        "sent": f"{totals.sent:,}",
        "delivered by a call": f"{totals.came['callback']:,}",
        "delivered as a task": f"{totals.came['task']:,}",
        "not delivered, in a gap": f"{totals.in_gaps:,}",
        "not delivered, nobody knows if committed": f"{totals.perhaps:,}",
        "lost": f"{ledger.offences['lost']:,}",
        "doubled": f"{ledger.offences['doubled']:,}",
        "disordered": f"{ledger.offences['disordered']:,}",
        "queued again with the same task id": f"{totals.again:,}",
        "durable: published": f"{durable.sent:,}",
        "durable: delivered by a call": f"{durable.came['callback']:,}",
        "durable: delivered as a task": f"{durable.came['task']:,}",
        "durable: nobody knows if committed": f"{durable.perhaps:,}",
        "durable: lost": f"{ledger.offences['durable lost']:,}",
        "durable: delivered again": f"{durable.again:,}",
        "reconnects": f"{outcome.reconnects:,}",
        "gaps": f"{len(ledger.gaps):,}",
        "seconds in gaps": f"{ledger.disconnected():.1f}",
        "memory of the listener, MB": f"{before.resident:.1f} -> {after.resident:.1f}",
        "its threads": f"{before.threads} -> {after.threads}",
        "its open files": f"{before.files} -> {after.files}",
    }
    print()
    for name, value in rows.items():
        print(f"{name:42} {value:>20}")


def print_offences(ledger: Ledger, log: str) -> None:
    """Print the offences, the latest gaps, and the end of the listener's log."""
    print("\nFAILED: " + ", ".join(f"{count:,} {kind}" for kind, count in ledger.offences.items()))
    print("\n".join(ledger.shown))
    print("\nGaps:")
    for gap in ledger.gaps[-50:]:
        since, until = gap.since.timestamp(), gap.until.timestamp()
        print(f"{since:.3f} to {until:.3f} on {len(gap.channels)} channels: {gap.reason}")
    print(f"\nThe listener's log ends with:\n{log}")


def main() -> int:
    """Run a soak with the command line's options, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long faults go on (10)")
    parser.add_argument("--seed", type=int, help="the faults' order and measure (random)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between faults (5)")
    parser.add_argument(
        "--rate", type=float, default=RATE, help="notifications and entries a second (1500)"
    )
    given = parser.parse_args()
    seed = secrets.randbelow(2**32) if given.seed is None else given.seed
    print(f"--seed {seed} --minutes {given.minutes:g} --every {given.every:g}", flush=True)
    with set_up(seed, given.rate) as stage:
        try:
            outcome = soak(stage, given.minutes, given.every)
        except ListenerFailedError as exc:
            stage.ledger.offend("stuck", str(exc))
        else:
            judge(stage.ledger, outcome)
            print_summary(stage.ledger, outcome)
        if not stage.ledger.offences:
            return 0
        print_offences(stage.ledger, stage.listener.log(100))
        return 1


if __name__ == "__main__":
    # Clean up after SIGTERM as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
