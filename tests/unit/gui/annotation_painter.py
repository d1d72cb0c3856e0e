"""A process that paints a row every 80 ms and says so, for test_annotation_saver.py; it never ends by itself."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from napari_crln.gui.annotation_saver import AnnotationSaver


class Threads:
    """A background of real threads."""

    def run(
        self, work: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> None:
        def job() -> None:
            try:
                result = work()
            except Exception as error:
                failed(error)
            else:
                done(result)

        threading.Thread(target=job, daemon=True).start()

    def stream(self, *_: Any) -> Any:
        raise NotImplementedError


def main(project: str, volume: str) -> None:
    array = np.zeros((12, 20, 70), np.uint8)
    saver = AnnotationSaver(Path(project), volume, lambda: array, 0, array.copy(), Threads(), lambda _: None)
    for k in range(12 * 20):
        array[k % 12, k // 12] = 2
        saver.touch()
        print(k, flush=True)
        for _ in range(4):
            time.sleep(0.02)
            saver.tick()
    time.sleep(60)


main(*sys.argv[1:])
