"""The demo's view on a terminal."""

import io
from itertools import product

import pytest
from rich.console import Console

from pgnotifier.demo.accounting import Account, Execution, ReportedGap, Sent
from pgnotifier.demo.live import LiveView


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 50), (100, 24)])
def test_the_last_frame_fits(width, height):
    """The last frame fits on the screen, with one line left for the shell."""
    view = play(Console(file=io.StringIO(), width=width, height=height, force_terminal=True))
    plain = Console(file=io.StringIO(), width=min(width, 100), height=height)
    plain.print(view._frame())
    lines = plain.file.getvalue().splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) <= width


def test_what_it_shows():
    """A frame shows each task's payload, process and latency, and the result below."""
    view = play(Console(file=io.StringIO(), width=100, height=40, force_terminal=True))
    plain = Console(file=io.StringIO(), width=100, height=40)
    plain.print(view._frame())
    frame = plain.file.getvalue()
    assert '{"id": 29}' in frame
    assert "alpha 4711" in frame
    assert "3.0 ms" in frame
    assert "in the gap" in frame
    assert (
        "1 plain notification missed, inside the reported gap; of the durable ones, none" in frame
    )
    assert '{"id": 28}' in frame


def play(console):
    """Return a view that was shown 30 pairs; of one, the plain half was missed in a gap."""
    account = Account()
    with LiveView(console) as view:
        for name in ("PostgreSQL", "Valkey", "listener", "alpha", "beta"):
            view.part(name, "starting")
            view.part(name, "pid 123456")
        view.begin(account, 30)
        for number, durable in product(range(30), (False, True)):
            at, channel = 1000.0 + number, "paid" if durable else "orders"
            sent = Sent(channel, f'{{"id": {number}}}', at, at, durable)
            account.sent[sent.key] = sent
            view.sent(sent)
            if durable or number != 28:
                ran = Execution(channel, {"id": number}, "alpha", 4711, sent.begun_at + 0.003)
                account.executions[ran.key].append(ran)
                view.executed(ran, sent)
        view.cut()
        gap = ReportedGap(1027.5, 1028.5, "cut")
        account.gaps.append(gap)
        view.reconnected(gap)
        view.update()
        view.end(account.settle())
    return view
