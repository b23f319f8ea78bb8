"""Views: what the demo shows, and the one for where no terminal is."""

import json
import time
from types import TracebackType
from typing import Self

from pgnotifier.demo.accounting import Account, Execution, ReportedGap, Sent, Summary


class View:
    """Is told what happens, in the order in which it does; by the main thread alone."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""

    def part(self, name: str, state: str) -> None:
        """Show that a server or process is starting, or that it runs (version or pid)."""

    def begin(self, account: Account, total: int) -> None:
        """Show that all parts run, and that `total` notifications will be sent."""

    def sent(self, sent: Sent) -> None:
        """Show that a notification was sent."""

    def executed(self, execution: Execution, sent: Sent | None) -> None:
        """Show that a task ran; `sent` is None if somebody else notified."""

    def cut(self) -> None:
        """Show that the listener's database session was terminated."""

    def heard_again(self, gap: ReportedGap) -> None:
        """Show that the listener is back, and what it says to have missed."""

    def update(self) -> None:
        """Show time going by; called often."""

    def end(self, summary: Summary) -> None:
        """Show what became of everything."""

    def keep(self, text: str) -> None:
        """Show how to go on by hand; tasks that run are shown from here on, too."""


class PlainView(View):
    """Prints a line for each thing that happens: for pipes and files."""

    def part(self, name: str, state: str) -> None:
        """Print it."""
        self._print(f"{name}: {state}")

    def begin(self, account: Account, total: int) -> None:  # noqa: ARG002
        """Print it."""
        self._print(f"sending {total} notifications")

    def executed(self, execution: Execution, sent: Sent | None) -> None:
        """Print the notification, who ran its task, and how long after."""
        self._print(describe(execution, sent))

    def cut(self) -> None:
        """Print it."""
        self._print(CUT)

    def heard_again(self, gap: ReportedGap) -> None:
        """Print it."""
        self._print(describe_gap(gap))

    def end(self, summary: Summary) -> None:
        """Print what was missed, the figures, and the verdict."""
        for why, missed in (
            ("not executed, inside the reported gap", summary.in_gap),
            ("not executed, UNEXPLAINED", summary.unexplained),
            ("executed TWICE", summary.doubled),
        ):
            for sent in missed:
                self._print(f"{sent.channel:<6} {sent.text}: {why}")
        print("\nsummary")
        for name, value in list_figures(summary):
            print(f"  {name:<24} {value:>8}")
        print(f"\n{describe_verdict(summary)}", flush=True)

    def keep(self, text: str) -> None:
        """Print it."""
        print(f"\n{text}\n", flush=True)

    def _print(self, line: str) -> None:
        print(f"{show_time(time.time())}  {line}", flush=True)


CUT = "the demo has terminated the listener's database session"


def describe(execution: Execution, sent: Sent | None) -> str:
    """Return a line on a task that ran."""
    payload = json.dumps(execution.payload)
    after = f" after {show_latency(execution, sent)}" if sent else ""
    where = f"{execution.worker} pid {execution.pid}"
    return f"{execution.channel:<6} {payload:<42}  ran on {where}{after}"


def describe_gap(gap: ReportedGap) -> str:
    """Return a line on a gap."""
    since, until = show_time(gap.since), show_time(gap.until)
    return f"the listener is back; gap: {since} to {until}"


def describe_verdict(summary: Summary) -> str:
    """Return what the figures mean."""
    if summary.is_good:
        return "Every notification was executed once, or lies inside the reported gap."
    return (
        f"{len(summary.unexplained)} notifications were lost without a gap being reported, and "
        f"{len(summary.doubled)} executed more than once: this is a defect."
    )


def list_figures(summary: Summary) -> list[tuple[str, str]]:
    """Return the figures of a summary, each with its name."""
    return [
        ("sent", str(summary.sent)),
        ("executed", str(summary.executed)),
        ("inside the reported gap", str(len(summary.in_gap))),
        ("unexplained", str(len(summary.unexplained))),
        ("executed twice", str(len(summary.doubled))),
        ("median latency", show_milliseconds(summary.median)),
        ("p99 latency", show_milliseconds(summary.p99)),
    ]


def show_latency(execution: Execution, sent: Sent) -> str:
    """Return how long after the NOTIFY the task ran."""
    return show_milliseconds((execution.at - sent.begun_at) * 1000)


def show_milliseconds(value: float | None) -> str:
    """Return a latency with its unit."""
    return "none" if value is None else f"{value:.1f} ms"


def show_time(seconds: float) -> str:
    """Return a time of day, to the millisecond."""
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{int(seconds % 1 * 1000):03}"
