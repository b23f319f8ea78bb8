"""The screen of `pgnotifier top`, with surveys that the test makes."""

import asyncio
import html
import os
import re
from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from reported import make_channel, make_report, make_standby, make_subscription, make_survey

from pgnotifier._inquiry.report import SilentListener, Survey
from pgnotifier.cli.top.app import TopApp
from pgnotifier.cli.top.watching import Look, Outcome

pytestmark = pytest.mark.slow

SHOWN = "host=db.shop.example dbname=shop user=listener"
IMAGES = Path(__file__).parents[4] / "docs" / "images"
KEPT = os.environ.get("PGNOTIFIER_SCREENSHOTS") == "1"
MOST_BYTES = 300_000
"""What a screenshot in the documentation may have."""


class Script:
    """A watcher that says what the test wants, and writes down what it is asked for."""

    def __init__(self):
        self.orders = []
        self.calls = []

    def start(self, show):
        self.show = show

    def stop(self):
        self.calls.append("stop")

    def pause(self, *, wait=False):
        self.calls.append("pause")

    def resume(self):
        self.calls.append("resume")

    def order(self, orders, done):
        self.orders.append((orders, done))


class Scene:
    """A screen that runs, with its watcher."""

    def __init__(self, app, script, pilot):
        self.app, self.script, self.pilot = app, script, pilot

    async def look(self, *reports, silent=()):
        """Have the watcher say what a survey has found."""
        await self.say(Look(Survey(reports, silent)))

    async def say(self, what):
        """Have the watcher say something."""
        self.script.show(what)
        await self.pilot.pause()

    async def press(self, *keys):
        """Press keys, one after the other."""
        await self.pilot.press(*keys)
        await self.pilot.pause()

    @property
    def lines(self):
        """The lines of the screen."""
        found = defaultdict(list)
        pattern = r'<text class="[^"]*-r\d+" x="([\d.]+)" y="([\d.]+)" [^>]*>([^<]*)</text>'
        for x, y, text in re.findall(pattern, self.app.export_screenshot()):
            found[float(y)].append((float(x), html.unescape(text).replace("\xa0", " ")))
        width = 12.2
        lines = []
        for y in sorted(found):
            line = ""
            for x, text in sorted(found[y]):
                line = line.ljust(round(x / width)) + text
            lines.append(line.rstrip())
        return lines

    @property
    def text(self):
        """All of the screen."""
        return "\n".join(self.lines)

    def rows_with(self, text):
        """Return the lines that contain a text."""
        return [line for line in self.lines if text in line]


@asynccontextmanager
async def on_screen(size=(80, 24)):
    """Yield a screen."""
    script = Script()
    app = TopApp(SHOWN, script)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        yield Scene(app, script, pilot)
    assert script.calls[-1] == "stop"


def play(part, **options):
    """Run a coroutine with a screen."""

    async def main():
        async with on_screen(**options) as scene:
            await part(scene)

    asyncio.run(main())


ORDERS = make_channel("orders", 42, rate=12.5)
IMAGES_CHANNEL = make_channel("images", 7, rate=0.5)
INVOICE = make_subscription("invoice", "orders", "shop.tasks.invoice")
RESIZE = make_subscription("resize", "images", "shop.tasks.resize", "images")
LEADER = make_report([ORDERS, IMAGES_CHANNEL], [INVOICE, RESIZE])


def test_views():
    """In 80 columns and 24 lines, each view has its rows, and the figures are above them."""

    async def part(scene):
        assert "no answer yet" in scene.text
        await scene.look(LEADER, make_standby(LEADER))
        assert len(scene.lines) <= 24
        assert max(map(len, scene.lines)) <= 80
        assert re.search(r"received +1,250/s .*p50 1\.2ms  p95 3\.4ms  p99 8\.8ms", scene.text)
        assert re.search(r"delivered +1,250/s", scene.text)
        assert "buffers 12 of 10,000   lag 42   dead 0" in scene.text
        (row,) = scene.rows_with("web-1 4711")
        assert re.search(r"listening +4h\d\dm +1,250/s +12 +3\.4ms", row)
        assert scene.rows_with("web-2 4713")[0].split()[2] == "standby"
        await scene.press("2")
        assert re.search(r"^ *orders +12\.5/s .* 42 +1", scene.rows_with("orders ")[0])
        await scene.press("tab")
        assert scene.rows_with(" resize ")[0].split() == [
            "images", "resize", "shop.tasks.resize", "images",
        ]  # fmt: skip
        await scene.press("4")
        assert scene.rows_with("CeleryDispat")[0].split()[-3:] == ["1.2ms", "3.4ms", "8.8ms"]
        await scene.press("5")
        assert re.search(r"invoice +orders +42 +1s +80/s", scene.text)
        await scene.press("shift+tab")
        assert scene.rows_with("BUFFER OR QUEUE")
        await scene.press("tab", "tab")
        assert scene.rows_with("LISTENER ")

    play(part)


def test_filter():
    """What doesn't contain the text is hidden, in each view; Escape shows it again."""

    async def part(scene):
        await scene.look(LEADER)
        await scene.press("3", "slash", *"RESIZE")
        assert not scene.rows_with("shop.tasks.invoice")
        await scene.press("enter")
        assert "2 subscriptions · 1 with 'RESIZE'" in scene.text
        await scene.press("2")  # again a key of the table, and no letter of the filter
        assert "2 channels · 1 with" in scene.text
        await scene.press("escape", "3")
        assert scene.rows_with("shop.tasks.invoice")

    play(part)


def test_sorting():
    """Channels are sorted by rate; s goes to the next column, r turns the order round."""

    async def part(scene):
        await scene.look(LEADER)
        await scene.press("2")
        assert "RATE▼" in scene.text
        first = scene.text.index("images "), scene.text.index("orders ")
        assert first[1] < first[0]
        await scene.press("r")
        assert "RATE▲" in scene.text
        assert scene.text.index("images ") < scene.text.index("orders ")
        await scene.press("s")
        assert "TREND▼" in scene.text
        await scene.pilot.click("#view-1", offset=(3, 0))
        await scene.pilot.pause()
        assert "CHANNEL▲" in scene.text

    play(part)


def test_cursor():
    """The cursor stays on its row when the order changes, unless it was not moved."""

    async def part(scene):
        await scene.look(LEADER)
        await scene.press("2", "down")
        assert "images · resize" in scene.text
        busy = replace(IMAGES_CHANNEL, rate=99.0)
        await scene.look(replace(LEADER, channels=(ORDERS, busy)))
        assert "images · resize" in scene.text
        await scene.look(replace(LEADER, channels=(ORDERS,)))
        assert "orders · invoice" in scene.text
        await scene.look(replace(LEADER, channels=(ORDERS, busy)))
        assert "images · resize" in scene.text

    play(part)


def test_muting():
    """After a yes, listeners that take orders get one; what they say is shown."""
    other = replace(make_standby(LEADER), takes_orders=False)

    async def part(scene):
        await scene.look(LEADER, other)
        await scene.press("m")
        assert "choose a channel or a subscription to mute" in scene.text
        await scene.press("2", "m")
        assert "Mute channel 'orders' in 1 listener; 1 more take no orders?" in scene.text
        await scene.press("n")
        assert scene.script.orders == []
        await scene.press("m", "y")
        (((order,), done),) = scene.script.orders
        assert (order.listener, order.verb, order.channel, order.subscription) == (
            LEADER.id, "mute", "orders", None,
        )  # fmt: skip
        await scene.say(Outcome(done, failed=False))
        assert "muted channel 'orders'" in scene.text
        await scene.look(replace(LEADER, channels=(replace(ORDERS, muted=True), IMAGES_CHANNEL)))
        assert "muted" in scene.rows_with("12.5/s")[0]
        await scene.press("m")
        assert scene.script.orders[-1][0][0].verb == "unmute"
        await scene.press("3", "down", "m", "y")
        order = scene.script.orders[-1][0][0]
        assert (order.verb, order.channel, order.subscription) == ("mute", "orders", "invoice")
        await scene.say(Outcome("listener 0 refused: no right", failed=True))
        assert "! listener 0 refused: no right" in scene.text
        await scene.look(replace(LEADER, takes_orders=False))
        await scene.press("m")
        assert "listener web-1 4711 takes no orders" in scene.text

    play(part)


def test_pausing_and_leaving():
    """Space pauses, and goes on; q ends it with code 0, Ctrl-C with 130, also in a question."""

    async def part(scene):
        await scene.look(LEADER)
        await scene.press("space")
        assert "PAUSED" in scene.text
        await scene.press("space")
        assert "PAUSED" not in scene.text
        assert scene.script.calls == ["pause", "resume"]
        await scene.press("2", "m", "ctrl+c")
        assert scene.app.return_value == 130

    async def quits(scene):
        await scene.press("q")
        assert scene.app.return_value == 0

    play(part)
    play(quits)


def test_what_is_wrong():
    """A connection that is lost is shown, and what was known stays; then all is well again."""

    async def part(scene):
        await scene.say(Look(None, "no route to host"))
        assert "! not connected, trying again: no route to host" in scene.text
        await scene.look(LEADER)
        assert "! " not in scene.text
        await scene.say(Look(None, "the server closed the connection"))
        assert "NOT CONNECTED" in scene.text
        assert scene.rows_with("web-1 4711")
        await scene.look(silent=[SilentListener(77, "shop", None, None, None)])
        assert "! nobody listens" in scene.text
        assert scene.rows_with("session 77")[0].split()[2] == "silent"
        await scene.look(replace(LEADER, state="disconnected", why="no route to host"))
        assert "! nobody listens" in scene.text
        await scene.look(replace(LEADER, why="the buffer is full"))
        assert "! web-1 4711: the buffer is full" in scene.text

    play(part)


NAMES = ("[bold]x[/]", "a\x1b]0;own\x07[/]", "[@click=quit]\u202eq")


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    """Markup is shown as it is, and what a terminal would obey as escapes, wherever they are."""
    report = make_report(
        [make_channel(name)], [make_subscription(name, name, name, name)],
        host=name, app=name, why=name, standby=name,
    )  # fmt: skip
    literal = name.encode("unicode_escape").decode() if not name.isprintable() else name

    async def part(scene):
        await scene.look(report)
        assert literal in scene.text
        for key in "2345":
            await scene.press(key)
            assert "\x1b" not in scene.text
            if key in "23":
                assert literal in scene.text
        await scene.press("2", "m")
        assert literal.replace("\\", "\\\\") in scene.text or literal in scene.text
        await scene.press("n", "slash", *"[b", "enter")
        await scene.say(Outcome(f"{name}".encode("unicode_escape").decode(), failed=True))

    play(part)


def test_forged_answers():
    """Anybody can send an answer: impossible figures and times are shown, too."""
    begin = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))
    channels = [make_channel("orders", -(2**63), rate=1e308)]
    forged = [
        make_report(channels, [INVOICE], id=f"{n:016}", rate=1e308, since=begin, gaps=2**62)
        for n in range(3)
    ]

    async def part(scene):
        for _ in range(2):
            await scene.look(*forged)
            await scene.press("tab")
        await scene.press("3", "4", "5", "1")
        assert scene.rows_with("web-1 4711")

    play(part)


@pytest.mark.parametrize("size", [(20, 5), (200, 60)])
def test_sizes(size):
    """It is drawn in terminals of any size, and again when the size changes."""

    async def part(scene):
        await scene.look(LEADER)
        await scene.press("2", "3", "4", "5", "1")
        await scene.pilot.resize_terminal(100, 30)
        await scene.pilot.pause()
        assert scene.rows_with("web-1 4711")

    play(part, size=size)


def picture(scene, name, directory):
    """Write a screenshot; with PGNOTIFIER_SCREENSHOTS=1, for the docs."""
    svg = scene.app.export_screenshot(title="pgnotifier top")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # no fonts from elsewhere
    svg = re.sub(r"terminal-\d+", "terminal", svg)
    path = (IMAGES if KEPT else directory) / f"{name}.svg"
    path.parent.mkdir(exist_ok=True)
    path.write_text(svg)
    assert 10_000 < len(svg) < MOST_BYTES
    assert SHOWN in html.unescape(svg).replace("\xa0", " ")


def test_picture(tmp_path):
    """A screenshot shows the figures, and no address of a font."""

    async def part(scene):
        for moment in range(60 if KEPT else 2):
            scene.script.show(Look(make_survey(12, 2, moment)))
        await scene.pilot.pause()
        picture(scene, "top", tmp_path)

    play(part, size=(110, 24))


def test_many_channels(tmp_path):
    """With 200 channels and 1,000 subscriptions it is readable."""

    async def part(scene):
        for moment in range(60 if KEPT else 2):
            scene.script.show(Look(make_survey(moment=moment)))
        await scene.press("2")
        assert "200 channels" in scene.text
        picture(scene, "top-many", tmp_path)
        await scene.press("3", "end")
        assert "1000 subscriptions" in scene.text
        assert scene.rows_with("shop.stock.049")

    play(part, size=(110, 34))
