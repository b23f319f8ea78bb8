"""The board in a real browser shows all orders, also after lost sessions and restarts."""

from pathlib import Path

import psycopg
import pytest

from pgnotifier.testing import Command

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_app"
TIMEOUT = 30_000  # milliseconds


@pytest.fixture
def serve(pgnotifier_dsn, free_port):
    """Return a function that makes a process of the application."""

    def serve():
        return Command(
            f"uvicorn board.main:app --port {free_port} --timeout-graceful-shutdown 1",
            env={"BOARD_DSN": pgnotifier_dsn},
            directory=EXAMPLE,
            ready="Uvicorn running",
        )

    return serve


@pytest.fixture
def insert(pgnotifier_dsn):
    """Yield a function that places an order with SQL, as another program would."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as connection:

        def insert(item):
            connection.execute("INSERT INTO orders (item) VALUES (%s)", (item,))

        insert.end_listeners = lambda: connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
            " current_database() AND application_name = 'pgnotifier'"
        )
        yield insert


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of playwright's pipes
def test_orders_appear(serve, insert, free_port):
    """Each order appears once and in order in every window, also after a lost session."""
    from browser import open_browser  # which takes long to import
    from playwright.sync_api import expect

    with open_browser() as browser:
        with serve() as server:
            insert("early")
            windows = [browser.new_page() for _ in range(2)]
            for window in windows:
                window.goto(f"http://127.0.0.1:{free_port}/")
            items = ["1: early", *(f"{n}: item {n} <b>" for n in range(2, 22))]
            for window in windows:
                expect(window.get_by_role("status")).to_have_text("live", timeout=TIMEOUT)
            for n in range(2, 22):
                insert(f"item {n} <b>")
            for window in windows:
                expect(window.get_by_role("listitem")).to_have_text(items, timeout=TIMEOUT)
            insert.end_listeners()
            insert("in the gap")
            items.append("22: in the gap")
            for window in windows:
                expect(window.get_by_role("listitem")).to_have_text(items, timeout=TIMEOUT)
            assert "Traceback" not in server.log
        (window, _) = windows
        expect(window.get_by_role("status")).to_have_text("reconnecting", timeout=TIMEOUT)
        insert("while it was down")
        items.append("23: while it was down")
        with serve():
            expect(window.get_by_role("listitem")).to_have_text(items, timeout=TIMEOUT)
            expect(window.get_by_role("status")).to_have_text("live", timeout=TIMEOUT)
