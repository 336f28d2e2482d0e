"""The tests are in two sizes, and together they are all tests."""

import re

import pytest
from support.programs import run_programs


@pytest.fixture(scope="module")
def sizes() -> list[tuple[set[str], int]]:
    """Of each size the tests, and how many there are of both: as the README's command and `-m slow` collect them."""
    collect = ["-m", "pytest", "--collect-only", "-n0", "-p", "no:cacheprovider"]
    found = []
    for done in run_programs((collect, ""), ([*collect, "-m", "slow"], "")):
        assert done.returncode == 0, done.stdout
        *_, total = re.search(r"(\d+)/(\d+) tests collected", done.stdout).groups()
        found.append(({line for line in done.stdout.splitlines() if "::" in line}, int(total)))
    return found


def test_each_test_is_of_one_size(sizes):
    (fast, total), (slow, same) = sizes
    assert total == same == len(fast) + len(slow) and not fast & slow


def test_no_file_has_slow_tests_alone(sizes):
    fast, slow = ({test.split("::")[0] for test in tests} for tests, _ in sizes)
    assert slow and slow <= fast
