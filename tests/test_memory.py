"""Freed pictures stay with the process: measured in page faults of a real one."""

import subprocess
import sys

SCRIPT = """
import resource, sys
from line_worker.memory import keep_large_buffers
if sys.argv[1] == "keep":
    assert keep_large_buffers()
def work():
    return [bytearray(b"x") * 1_000_000 for _ in range(4)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_pictures_cost_no_page_faults_once_buffers_are_kept() -> None:
    assert _faults("keep") * 20 < _faults("as it is")
