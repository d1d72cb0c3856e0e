"""What a call of the command line answers, and options of a run of seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

TINY = (
    "--set=network.base_filters=2",
    "--set=batches.patch=[16,16,16]",
    "--set=engine.log_every=1",
    "--set=engine.threads=1",
    "--set=method.rectification.after=1",
)


class Answer(NamedTuple):
    """What one call of the command line came to."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Call = Callable[..., Answer]
