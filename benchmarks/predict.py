"""What prediction costs beside the network, and how much memory it takes.

    python benchmarks/predict.py overhead --out benchmarks/results/predict-overhead-cpu.json
    python benchmarks/predict.py memory --out benchmarks/results/predict-memory-cpu.json

overhead: a volume of 190 × 142 × 88 (x, y, z) with the windows of the LA literature, against the same network on the same number of
equal batches, in turns. Target: ≤ 1.1 × the network's time.

memory: the peak resident set of a process of its own that segments a project's volume of `--size`³ (uint16), with a small network and a
coarse stride, and writes the result. Target: ≤ 2.5 GB at 1024³.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import record

from napari_crln import config
from napari_crln.engine.memory import peak_memory_mb
from napari_crln.engine.predict import Windowing, predict_labels
from napari_crln.engine.state import build_learner
from napari_crln.engine.validate import InferNetwork
from napari_crln.engine.windows import Grid
from napari_crln.types import ShapeDHW

SHAPE: ShapeDHW = (88, 142, 190)


def main() -> None:
    options = _parse()
    options.act(options)


def overhead(options: argparse.Namespace) -> None:
    """Whole prediction over network alone."""
    torch.set_num_threads(options.threads)
    settings = _settings(options.filters, options.patch, options.stride)
    learner = build_learner(settings, 2, torch.device("cpu"))
    network, windowing = InferNetwork(learner, settings), Windowing.of(settings)
    image = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.float32)
    windows = len(Grid.over(SHAPE, windowing.patch, windowing.stride, windowing.overlap))
    pairs = []
    for round_ in range(options.rounds + 1):
        pure = _pure(network, windowing, windows)
        start = time.perf_counter()
        predict_labels(network, image, windowing)
        pairs.append((time.perf_counter() - start, pure))
        print(f"round {round_}: {pairs[-1][0]:.2f} s, network {pure:.2f} s, {windows} windows", flush=True)
    ratio = statistics.median(whole / pure for whole, pure in pairs[1:])
    print(f"{ratio:.3f} × the network's time")
    found = {
        "windows": windows,
        "whole_s": statistics.median(whole for whole, _ in pairs[1:]),
        "network_s": statistics.median(pure for _, pure in pairs[1:]),
        "ratio": ratio,
    }
    _record(options, found)


def memory(options: argparse.Namespace) -> None:
    """Peak of a process that segments one large volume."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        command = [sys.executable, *sys.argv, "--inside", folder]
        subprocess.run([*command, "--make"], check=True)
        start = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    peak = float(done.stdout.split()[-1])
    print(f"peak {peak:.0f} MiB, {time.perf_counter() - start:.0f} s for {options.size}³")
    _record(options, {"peak_mib": peak, "seconds": time.perf_counter() - start})


def segment_inside(options: argparse.Namespace) -> None:
    """In a process of its own: make the project, or segment its volume and print the peak."""
    torch.set_num_threads(options.threads)
    folder = Path(options.inside)
    _make_project(options, folder) if options.make else _segment(folder)


def _make_project(options: argparse.Namespace, folder: Path) -> None:
    from napari_crln.engine import checkpoint
    from napari_crln.engine.state import TrainingState
    from napari_crln.run.folder import RunFolder
    from napari_crln.volume.geometry import Grid as VoxelGrid
    from napari_crln.volume.labels import ClassTable
    from napari_crln.volume.project import Project

    table = ClassTable.from_ids({"background": 0, "organ": 1})
    project = Project.create(folder / "p.crln", table, "none")
    size = options.size
    raw = np.memmap(folder / "raw", np.uint16, "w+", shape=(size, size, size))
    rng = np.random.default_rng(0)
    for start in range(0, size, 16):
        raw[start : start + 16] = rng.integers(0, 4000, raw[start : start + 16].shape, dtype=np.uint16)
    project.add("large", raw, VoxelGrid(raw.shape, np.eye(4)), "unlabelled")
    settings = _settings(options.filters, options.patch, options.stride)
    run = RunFolder.create(project.path, settings, "bench")
    state = TrainingState.initial(settings, project.classes.names, torch.device("cpu"))
    checkpoint.save(run.path / "checkpoints", state.snapshot(), keep=1)


def _segment(folder: Path) -> None:
    from napari_crln.engine.segment import Segmenter
    from napari_crln.run.folder import runs
    from napari_crln.volume.project import Project

    project = Project.open(folder / "p.crln")
    (run,) = runs(project.path)
    volume = project.volume("large")
    with Segmenter(run.path).segment(volume) as segmentation:
        volume.write_prediction(segmentation.labels)
    print(peak_memory_mb(torch.device("cpu")))


def _pure(network: InferNetwork, windowing: Windowing, windows: int) -> float:
    """Seconds that the network alone takes for the windows, in batches as prediction has them."""
    x = torch.rand(windowing.batch, 1, *windowing.patch)
    start = time.perf_counter()
    for first in range(0, windows, windowing.batch):
        network(x[: min(windowing.batch, windows - first)])
    return time.perf_counter() - start


def _settings(filters: int, patch: ShapeDHW, stride: ShapeDHW) -> config.RunConfig:
    return config.build(
        {
            "network": {"base_filters": filters},
            "batches": {"patch": list(patch)},
            "predicting": {"stride": list(stride)},
            "engine": {"device": "cpu"},
        }
    )


def _record(options: argparse.Namespace, found: dict[str, Any]) -> None:
    if options.out:
        kept = ("filters", "patch", "stride", "threads", "rounds", "size")
        settings = {k: v for k, v in vars(options).items() if k in kept}
        record(options.out, ["python", *sys.argv], {"settings": settings, **found}, [0])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    one = _command(commands, "overhead", 16, (80, 112, 112), (40, 56, 56))
    one.add_argument("--rounds", type=int, default=3)
    one.set_defaults(act=overhead)
    two = _command(commands, "memory", 2, (96, 96, 96), (96, 96, 96))
    two.add_argument("--size", type=int, default=1024, help="voxels an axis")
    two.add_argument("--folder", type=Path, help="where the temporary project is made")
    two.add_argument("--inside", help=argparse.SUPPRESS)
    two.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    two.set_defaults(act=memory)
    options = parser.parse_args()
    if getattr(options, "inside", None):
        options.act = segment_inside
    return options


def _command(
    commands: Any, name: str, filters: int, patch: ShapeDHW, stride: ShapeDHW
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name)
    parser.add_argument("--filters", type=int, default=filters)
    parser.add_argument("--patch", type=int, nargs=3, default=patch)
    parser.add_argument("--stride", type=int, nargs=3, default=stride)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    return parser


if __name__ == "__main__":
    main()
