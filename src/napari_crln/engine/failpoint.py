"""Places where a test may kill the process, to prove that a crash there loses nothing.

`CRLN_FAILPOINT=checkpoint:rename` kills at the first `failpoint("checkpoint:rename")`, as a power cut would:
no handler, no `finally`. Without the variable a failpoint does nothing.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "CRLN_FAILPOINT"


def failpoint(name: str) -> None:
    """Kill this process with SIGKILL if the environment variable names this point."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
