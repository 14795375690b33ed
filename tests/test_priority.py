"""Priorities: whether a process may come first."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

TRIES = """
import os, resource, sys
from line_worker.priority import URGENT, may_take
if sys.argv[1] == "nobody":
    resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
    os.setuid(65534)
print(may_take(URGENT), os.getpriority(os.PRIO_PROCESS, 0) == int(sys.argv[2]))
try:
    os.nice(URGENT)
except PermissionError:
    print(False)
else:
    print(True)
"""


@pytest.mark.parametrize("user", ["nobody", "whoever tests"])
def test_whether_a_user_may_come_first_is_found_out_and_changes_nothing(user: str) -> None:
    if user == "nobody" and os.geteuid():
        pytest.skip("not root, who can become nobody: sudo .venv/bin/pytest tests/test_priority.py")
    own = str(os.getpriority(os.PRIO_PROCESS, 0))
    done = subprocess.run([sys.executable, "-c", TRIES, user, own], capture_output=True, text=True, check=True)
    thinks, unchanged, may = done.stdout.split()
    assert (thinks, unchanged) == (may, "True")
    assert user != "nobody" or may == "False"
