"""The list of slow tests is one of tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIST = ROOT / "tests" / "slow.txt"


def test_the_list():
    """Each line has a mark and the name of a test, in order and once."""
    lines = [line.split() for line in LIST.read_text().splitlines()]
    assert {mark for mark, _ in lines} == {"lasting", "slow"}
    names = [name for _, name in lines]
    assert names == sorted(set(names))
    for name in names:
        path, *classes, function = name.split("::")
        source = (ROOT / path).read_text()
        for one in classes:
            assert re.search(rf"^class {one}\b|^{one} = ", source, re.MULTILINE), name
        # The contract's tests are those of a class of pgnotifier.testing.
        assert classes or re.search(rf"^def {function}\(", source, re.MULTILINE), name
