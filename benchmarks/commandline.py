"""The command line that the benchmarks share."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from plot import draw
from report import print_table, write_json
from results import Section
from servers import Servers

RESULTS = Path(__file__).parent / "results"
QUICK = 100
"""A quick run sends the usual count divided by this."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The command-line options.

    Attributes:
        rounds: How many times each competitor is measured.
        quick: Whether to only check in a short time that everything works.
        given: How much to send in each run, or None for the benchmark's default.
        full: Whether to send as much, and to wait as long, as a day of production would.
    """

    rounds: int = 5
    quick: bool = False
    given: int | None = None
    full: bool = False

    def count(self, usual: int) -> int:
        """Return how much to send, given the benchmark's default."""
        if self.given is not None:
            return self.given
        return max(1, usual // QUICK) if self.quick else usual


Benchmark = Callable[[Servers, Settings], list[Section]]


def run(description: str | None, benchmarks: Sequence[Benchmark]) -> None:
    """Run benchmarks with the command line's options, report, and exit; 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, help="measurements of each competitor (5)")
    parser.add_argument("-n", "--count", type=int, help="how much is sent in a run")
    parser.add_argument("--quick", action="store_true", help="only check that everything works")
    parser.add_argument("--full", action="store_true", help="durable: half an hour, not minutes")
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory for the results")
    given = parser.parse_args()
    rounds = given.rounds or (1 if given.quick else 5)
    settings = Settings(rounds, given.quick, given.count, given.full)
    sections: list[Section] = []
    with Servers() as servers:
        for number, benchmark in enumerate(benchmarks, 1):
            print(f"{number} of {len(benchmarks)}: {benchmark.__module__}", file=sys.stderr)
            sections += benchmark(servers, settings)
    met = print_table(sections, judged=not settings.quick)
    given.output.mkdir(parents=True, exist_ok=True)
    write_json(sections, given.output / "latest.json")
    draw(sections, given.output / "latest.svg")
    print(f"\nAlso in {given.output}: latest.json, latest.svg")
    sys.exit(0 if met or settings.quick else 1)
