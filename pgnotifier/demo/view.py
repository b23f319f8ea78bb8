"""Show the demo's events and result: the interface of views, and the one for pipes and files."""

import json
import time
from types import TracebackType
from typing import Self

from pgnotifier._runtime.log_records import count
from pgnotifier.demo.accounting import Account, Execution, ReportedGap, Result, Sent, Summary


class View:
    """Called for each event, in order. Only the main thread calls it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restore the terminal."""

    def part(self, name: str, state: str) -> None:
        """Show that a server or process is starting, or its version or pid once it runs."""

    def begin(self, account: Account, total: int) -> None:
        """Show that everything runs, and that `total` notifications will be sent."""

    def sent(self, sent: Sent) -> None:
        """Show that a notification was sent."""

    def executed(self, execution: Execution, sent: Sent | None) -> None:
        """Show that a task ran. `sent` is None if somebody else sent the notification."""

    def cut(self) -> None:
        """Show that the listener's database sessions were terminated."""

    def reconnected(self, gap: ReportedGap) -> None:
        """Show that the listener is listening again, and the gap that it reported."""

    def update(self) -> None:
        """Refresh what is shown. Called often."""

    def end(self, result: Result) -> None:
        """Show the result."""

    def keep(self, text: str) -> None:
        """Show how to send notifications by hand. Tasks that run later are shown as well."""


class PlainView(View):
    """Prints one line for each event, for pipes and files."""

    def part(self, name: str, state: str) -> None:
        """Print the state of the part."""
        self._print(f"{name}: {state}")

    def begin(self, account: Account, total: int) -> None:  # noqa: ARG002
        """Print how many notifications will be sent."""
        self._print(f"sending {total} notifications")

    def executed(self, execution: Execution, sent: Sent | None) -> None:
        """Print the notification, the process that ran its task, and the latency."""
        self._print(describe(execution, sent))

    def cut(self) -> None:
        """Print that the sessions were terminated."""
        self._print(CUT)

    def reconnected(self, gap: ReportedGap) -> None:
        """Print the gap."""
        self._print(describe_gap(gap))

    def end(self, result: Result) -> None:
        """Print what was missed, the figures, and the verdict."""
        for summary in (result.plain, result.durable):
            for why, missed in (
                ("not executed, inside the reported gap", summary.in_gap),
                ("not executed, UNEXPLAINED", summary.unexplained),
                ("executed TWICE", summary.doubled),
            ):
                for sent in missed:
                    self._print(f"{sent.channel:<6} {sent.text}: {why}")
        print(f"\n{'summary':<26} {'plain':>10} {'durable':>10}")
        both = zip(list_figures(result.plain), list_figures(result.durable), strict=True)
        for (name, plain), (_, durable) in both:
            print(f"  {name:<24} {plain:>10} {durable:>10}")
        print(f"\n{describe_verdict(result)}", flush=True)

    def keep(self, text: str) -> None:
        """Print the text."""
        print(f"\n{text}\n", flush=True)

    def _print(self, line: str) -> None:
        print(f"{show_time(time.time())}  {line}", flush=True)


CUT = "the demo has terminated the listener's database sessions"


def describe(execution: Execution, sent: Sent | None) -> str:
    """Return a line about a task that ran."""
    payload = json.dumps(execution.payload)
    after = f" after {show_latency(execution, sent)}" if sent else ""
    where = f"{execution.worker} pid {execution.pid}"
    return f"{execution.channel:<6} {payload:<42}  ran on {where}{after}"


def describe_gap(gap: ReportedGap) -> str:
    """Return a line about a gap."""
    since, until = show_time(gap.since), show_time(gap.until)
    return f"the listener is listening again; gap: {since} to {until}"


def describe_verdict(result: Result) -> str:
    """Return a sentence that says whether the demo has succeeded."""
    plain, durable = result.plain, result.durable
    if result.is_good:
        missed = count(len(plain.in_gap), "plain notification")
        return f"{missed} missed, inside the reported gap; of the durable ones, none."
    doubled = len(plain.doubled) + len(durable.doubled)
    return (
        f"Lost outside of reported gaps: {len(plain.unexplained)}; durable, but missing: "
        f"{len(durable.unexplained)}; executed more than once: {doubled}. This is a defect."
    )


def list_figures(summary: Summary) -> list[tuple[str, str]]:
    """Return the figures of a summary, each with its name."""
    return [
        ("sent", str(summary.sent)),
        ("executed", str(summary.executed)),
        ("sent while cut off", str(summary.cut_off)),
        ("inside the reported gap", str(len(summary.in_gap))),
        ("unexplained", str(len(summary.unexplained))),
        ("executed twice", str(len(summary.doubled))),
        ("median latency", show_milliseconds(summary.median)),
        ("p99 latency", show_milliseconds(summary.p99)),
    ]


def show_latency(execution: Execution, sent: Sent) -> str:
    """Return the time from the NOTIFY to the running task."""
    return show_milliseconds((execution.at - sent.begun_at) * 1000)


def show_milliseconds(value: float | None) -> str:
    """Return a latency with its unit."""
    return "none" if value is None else f"{value:.1f} ms"


def show_time(seconds: float) -> str:
    """Return a time of day, to the millisecond."""
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{int(seconds % 1 * 1000):03}"
