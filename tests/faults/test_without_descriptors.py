"""A process that has no file descriptor left."""

import pytest

START = """
import gc, os, resource, sys, time
from pgnotifier import Notifier, PgNotifierError

port = int(sys.argv[2]) or None
notifier = Notifier(sys.argv[1], health_port=port)
notifier.subscribe(1, "a", print, autorun=False)
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
opened = len(os.listdir("/proc/self/fd")) - 1
for more in range(12):
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + more, hard))
    try:
        notifier.start()
    except PgNotifierError as exc:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        print("refused", exc)
    else:
        break
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
notifier.start()
print("listening")
notifier.stop()
deadline = time.monotonic() + 30
while time.monotonic() < deadline:
    gc.collect()  # the connection of an attempt, to which the error's traceback refers
    left = len(os.listdir("/proc/self/fd")) - 1
    if left <= opened:
        break
    time.sleep(0.05)
else:
    raise AssertionError(f"{left} descriptors are open instead of {opened}")
"""


@pytest.mark.parametrize("has_port", [False, True])
def test_a_start_without_descriptors(run_script, pgnotifier_dsn, free_port, has_port):
    """`start()` raises an error of ours, leaves none open, and works once there are some."""
    script = run_script(START, pgnotifier_dsn, str(free_port if has_port else 0))
    assert script.wait() == 0, script.err
    *refused, last = script.out.splitlines()
    assert last == "listening"
    assert any("can't listen: Too many open files" in line for line in refused)
    assert any("health_port" in line and "Too many" in line for line in refused) == has_port
    assert "Traceback" not in script.err
