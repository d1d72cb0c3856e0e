"""Places where a test may kill or signal the process, to prove that a fault there loses nothing.

`CRLN_FAILPOINT=checkpoint:rename` kills at the first `failpoint("checkpoint:rename")`, as a power cut would: no
handler, no `finally`. `loop:step@3=SIGTERM` sends another signal, at the third time; several are joined by commas.
Without the variable a failpoint does nothing.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

VARIABLE = "CRLN_FAILPOINT"
_met: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Send this process the signal that the environment variable names for this point, by default SIGKILL."""
    wanted = os.environ.get(VARIABLE)
    if wanted:
        _met[name] += 1
        for entry in wanted.split(","):
            _act(entry, name)


def _act(entry: str, name: str) -> None:
    point, _, action = entry.partition("=")
    point, _, time = point.partition("@")
    if point == name and _met[name] == int(time or 1):
        os.kill(os.getpid(), getattr(signal, action or "SIGKILL", signal.SIGTERM))
