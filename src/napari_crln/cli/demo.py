"""`demo`: the whole job on phantoms, with a report: project, two methods on the same labels, held-out scores.

CRLN and supervised training share labels, network, sampling, views, iterations and optimiser. The held-out phantoms
choose nothing. What is printed is what was measured; a demo is an illustration and not a benchmark.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_crln.cli.console import print_json, print_table, progress_bar, remark, say
from napari_crln.cli.options import AsJson
from napari_crln.errors import UsageError

if TYPE_CHECKING:
    from napari_crln.config import RunConfig
    from napari_crln.engine.evaluate import Evaluation
    from napari_crln.engine.segment import Segmenter
    from napari_crln.events import Stepped
    from napari_crln.run.folder import RunFolder
    from napari_crln.types import LabelDHW
    from napari_crln.volume.project import Project

METHODS = ("supervised", "crln")
_PROJECT = "phantoms.crln"
_PAGE = "index.html"
#: Module that opens napari with the panel on a project.
WINDOW = "napari_crln.gui.window"


@dataclass(frozen=True)
class _Trained:
    """A method's run, its reports while it trained, and its scores on the held-out phantoms."""

    run: RunFolder
    segmenter: Segmenter
    reports: list[Stepped]
    seconds: float
    evaluation: Evaluation


def demo(
    headless: Annotated[
        bool,
        typer.Option(
            "--headless", help="Without a window: supervised and CRLN are compared, and a report is written."
        ),
    ] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for project and report.")] = Path("demo"),
    iterations: Annotated[
        int | None, typer.Option(help="Optimiser steps a method; default: the preset's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of phantoms, weights and sampling.")] = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make phantoms, and train CRLN in napari with its live layers; headless, write a report with supervised beside it."""
    windowed = not headless and not as_json and _has_display()
    if windowed and find_spec("napari") is None:
        remark("napari is not installed (pip install 'napari-crln[all]'): this is the demo without a window.")
        windowed = False
    _make_room(out)
    began = time.monotonic()
    with progress_bar("making phantoms", shown=not as_json) as tell:
        project = _make_project(out / _PROJECT, seed, tell)
    if windowed:
        _open_window(project, out)
        return
    settings = {method: _settings(method, iterations, seed, threads) for method in METHODS}
    trained = {method: _train(project, settings[method], quiet=as_json) for method in METHODS}
    _write_page(out / _PAGE, project, trained)
    seconds = time.monotonic() - began
    if as_json:
        print_json(_document(out, trained, seconds))
    else:
        _say_scores(project, trained)
        say(f"Report: {out / _PAGE}   ({seconds:.0f} s)")


def _say_scores(project: Project, trained: dict[str, _Trained]) -> None:
    counts = Counter(volume.role for volume in project.volumes.values())
    header, *rows = _score_rows(trained)
    title = f"Dice % on {counts['test']} held-out phantoms, {counts['labelled']} labelled"
    print_table(header, rows, title)


def _open_window(project: Project, out: Path) -> None:
    """Train in napari: a process of its own, as the panel is none of the command line's modules."""
    from napari_crln.run.launch import RUN_MODULE

    say(
        f"Training in napari; the project is {project.path}. `napari-crln demo --headless` writes a report instead."
    )
    done = subprocess.run([*RUN_MODULE, WINDOW, str(project.path), "--train"], check=False)
    if done.returncode:
        raise UsageError(
            f"the window ended with code {done.returncode}",
            "napari needs a display and a Qt binding",
            "See what it said above, or use --headless",
            out,
        )


def _make_room(out: Path) -> None:
    """Move an earlier demo aside; refuse a folder that holds anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        out.mkdir(parents=True, exist_ok=True)
        return
    if not (out / _PROJECT).is_dir():
        raise UsageError(
            "it exists and holds something else than a demo",
            "nothing is overwritten",
            "Name another by --out",
            out,
        )
    whole, number = out.resolve(), 1
    while (aside := whole.with_name(f"{whole.name}-{number}")).exists():
        number += 1
    aside.mkdir()
    for path in list(whole.iterdir()):  # not the folder itself: whoever stands in it finds the new demo there
        path.rename(aside / path.name)
    remark(f"The demo that was in {out} is now in {aside}")


def _make_project(path: Path, seed: int, tell: Any) -> Project:
    from napari_crln.volume.project import Project
    from napari_crln.volume.sample import make_sample_project

    return Project.open(make_sample_project(path, seed=seed, tell=tell))


def _settings(method: str, iterations: int | None, seed: int, threads: int | None) -> RunConfig:
    from napari_crln import config

    chosen: dict[str, Any] = {
        "seed": seed,
        "method": {"name": method},
        "engine": {"device": "cpu", "preview_share": 0.0},
    }
    if iterations is not None:
        chosen["iterations"] = iterations
        chosen["method"]["rectification"] = {"after": iterations // 3}
    if threads is not None:
        chosen["engine"]["threads"] = threads
    return config.build(config.load_preset("demo"), chosen)


def _train(project: Project, settings: RunConfig, quiet: bool) -> _Trained:
    from napari_crln.engine.evaluate import evaluate
    from napari_crln.engine.gather import case_of
    from napari_crln.engine.segment import Segmenter
    from napari_crln.run.folder import RunFolder

    run = RunFolder.create(project.path, settings)
    began = time.monotonic()
    reports = list(_reports(project, run, settings, quiet))
    seconds = time.monotonic() - began
    segmenter = Segmenter(run.path)
    attributes = {"run": run.name, "step": segmenter.snapshot.step, "clues": segmenter.clues}
    for volume in project.with_role("test"):
        with segmenter.segment(volume) as result:
            volume.write_prediction(result.labels, attributes)
    cases = (case_of(volume) for volume in project.with_role("test"))
    return _Trained(run, segmenter, reports, seconds, evaluate(cases, project.classes.names))


def _reports(project: Project, run: RunFolder, settings: RunConfig, quiet: bool) -> Iterator[Stepped]:
    from napari_crln.cli.live import TrainingDisplay
    from napari_crln.engine.loop import Trainer
    from napari_crln.events import Ended, Stepped

    with TrainingDisplay(settings.iterations, quiet=quiet) as display:
        for event in Trainer.of(project, settings, run.path):
            display.show(event)
            if isinstance(event, Stepped):
                yield event
            if isinstance(event, Ended) and event.reason != "finished":
                raise typer.Exit(130)


def _score_rows(trained: dict[str, _Trained]) -> list[list[str]]:
    """Mean over the held-out phantoms of each class, and of all; a row for each method."""
    classes = list(next(iter(trained.values())).evaluation.per_class)
    rows = [["method", *classes, "foreground", "worst case", "95HD mm", "training s"]]
    for method, result in trained.items():
        overall, per_class = result.evaluation.overall, result.evaluation.per_class
        dice = [per_class[name].statistics["dice"].mean for name in classes]
        worst = overall.statistics["dice"].minimum
        cells = [f"{value * 100:.1f}" for value in (*dice, overall.statistics["dice"].mean, worst)]
        distance = overall.statistics.get("hd95_mm")
        rows.append(
            [method, *cells, "–" if distance is None else f"{distance.mean:.1f}", f"{result.seconds:.0f}"]
        )
    return rows


def _document(out: Path, trained: dict[str, _Trained], seconds: float) -> dict[str, Any]:
    return {
        "report": str(out / _PAGE),
        "project": str(out / _PROJECT),
        "seconds": round(seconds, 1),
        "methods": {
            method: {
                "run": result.run.name,
                "seconds": round(result.seconds, 1),
                "dice": result.evaluation.overall.statistics["dice"].mean,
                "evaluation": result.evaluation.model_dump(mode="json"),
            }
            for method, result in trained.items()
        },
    }


def _write_page(path: Path, project: Project, trained: dict[str, _Trained]) -> None:
    from napari_crln.engine.report import write_report

    iterations = trained["crln"].segmenter.settings.iterations
    counts = Counter(volume.role for volume in project.volumes.values())
    shape = " × ".join(map(str, next(iter(project.volumes.values())).grid.shape))
    lead = (
        f"{counts['labelled']} labelled and {counts['unlabelled']} unlabelled synthetic volumes of {shape} voxels; "
        f"{iterations} iterations a method on the same labels, network, views and schedule; scored on {counts['test']} "
        "held-out volumes that chose nothing. An illustration on easy data: what the method is worth on real "
        "volumes, against a mean teacher too, stands in the project's benchmarks."
    )
    footer = f"napari-crln, project {project.path.name}, runs " + ", ".join(
        t.run.name for t in trained.values()
    )
    write_report(path, "napari-crln demo: CRLN from a few labels", lead, _sections(project, trained), footer)


def _sections(project: Project, trained: dict[str, _Trained]) -> list[Any]:
    from napari_crln.engine.figures import belief_figure, clue_figure, curve_figure, telling_planes
    from napari_crln.engine.maps import belief_maps
    from napari_crln.engine.report import Section

    crln = trained["crln"]
    volume = project.volume(_median_case(crln.evaluation))
    image, truth = volume.read_image(), _as_labels(volume.read_targets())
    maps = belief_maps(crln.segmenter.learner, image, volume.normalisation, crln.segmenter.settings)
    colours = {c.name: c.colour for c in project.classes}
    planes = telling_planes(truth, 3)
    return [
        Section("Scores", "Dice in per cent, means over the held-out volumes.", _score_rows(trained)),
        Section(
            "What CRLN believes",
            f"{volume.name}, the held-out volume of median Dice. The teacher's pseudo-label is its own; the rectified "
            "one adds the clues of the prototypes, z + (1 − μ) M; yellow voxels changed by it.",
            picture=belief_figure(image, truth, maps, colours, planes),
        ),
        Section(
            "Clues of the prototypes",
            "Similarity: the largest score of a class's prototypes at half resolution. Clues M: the signed map of "
            "each class that the map head makes of all of them; red speaks for the class, blue against it.",
            picture=clue_figure(image, maps, colours, planes[len(planes) // 2]),
        ),
        Section(
            "Curves",
            "Means since the report before. Supervised training has no pseudo-labels, so it shows in the losses only.",
            picture=curve_figure({method: result.reports for method, result in trained.items()}),
        ),
    ]


def _median_case(evaluation: Evaluation) -> str:
    ranked = sorted(evaluation.cases, key=lambda case: case.mean("dice") or 0.0)
    return ranked[len(ranked) // 2].name


def _as_labels(targets: Any) -> LabelDHW:
    import numpy as np

    return np.asarray(targets.clip(min=0), dtype=np.uint8)


def _has_display() -> bool:
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
