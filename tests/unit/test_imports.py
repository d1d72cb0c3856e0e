"""What may be imported without what, tried in fresh interpreters: the layer rules as they are met by users."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import napari_crln

SOURCE = Path(napari_crln.__file__).parent.parent
MODULES = sorted(m.name for m in pkgutil.walk_packages(napari_crln.__path__, "napari_crln."))
VIEWER = ["napari", "qtpy", "PyQt5", "PyQt6", "PySide2", "PySide6", "superqt", "pyqtgraph", "magicgui"]


def _in(layer: str) -> list[str]:
    return [m for m in MODULES if m.split(".")[1] == layer]


def _python(code: str) -> str:
    """Run code in a fresh interpreter that finds this source tree, and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False, timeout=90
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _import_without(modules: list[str], blocked: list[str]) -> set[str]:
    """Import `modules` with `blocked` made unimportable; return the top-level names that were loaded."""
    code = f"""
import importlib, json, sys
for name in {blocked}: sys.modules[name] = None
for name in {modules}: importlib.import_module(name)
print(json.dumps(sorted(name for name in sys.modules if "." not in name and sys.modules[name] is not None)))
"""
    return set(json.loads(_python(code)))


def test_blocking_does_block() -> None:
    """The other tests would pass in vain if it did not."""
    with pytest.raises(AssertionError, match="numpy"):
        _import_without(["napari_crln.types"], ["numpy"])


def test_every_layer_is_walked() -> None:
    assert {m.split(".")[1] for m in MODULES} >= {
        *("config", "engine", "errors", "events", "gui", "method", "nn", "run", "types", "volume")
    }


def test_everything_but_gui_imports_without_napari_and_qt() -> None:
    _import_without([m for m in MODULES if m.split(".")[1] != "gui" and not m.endswith("__main__")], VIEWER)


def test_linux_needs_no_psutil() -> None:
    """Its modules are imported, a lock is held, and free memory told, without."""
    names = [m for m in MODULES if m.split(".")[1] != "gui" and not m.endswith("__main__")]
    _import_without(names, ["psutil"])
    code = """
import sys, tempfile
sys.modules["psutil"] = None
from pathlib import Path
from napari_crln.lock import Lock, holder
from napari_crln.volume.memory import available
with tempfile.TemporaryDirectory() as folder, Lock(Path(folder)):
    print(holder(Path(folder)).alive(), available() > 0)
"""
    assert _python(code).split() == ["True", "True"]


#: Modules of the panel that are made of Qt or of napari's layers; the rest of `gui` needs neither.
WINDOWED = (
    "annotation_layer",
    "bridge",
    "hover",
    "live_layers",
    "live_looks",
    "opened_layers",
    "session",
    "shown_volumes",
    "strokes",
    "view_direction",
    "widgets",
)


def _windowed(module: str) -> bool:
    return module.split(".")[2:3] != [] and module.split(".")[2] in WINDOWED


def test_gui_imports_without_torch() -> None:
    _import_without([m for m in _in("gui") if not _windowed(m)], ["torch", "monai"])


@pytest.mark.gui
@pytest.mark.skipif(find_spec("napari") is None, reason="no napari: tox -e gui")
def test_panel_imports_without_torch() -> None:
    _import_without([m for m in _in("gui") if _windowed(m)], ["torch", "monai"])


def test_model_and_presenter_import_without_qt_and_napari() -> None:
    blocked = ["napari", "qtpy", "PyQt5", "PyQt6", "PySide2", "PySide6", "superqt", "pyqtgraph", "torch"]
    names = (
        "model",
        "presenter",
        "predictor",
        "preview_feed",
        "obstacles",
        "curves",
        "run_view",
        "following",
    )
    _import_without([f"napari_crln.gui.{name}" for name in names], blocked)


@pytest.mark.parametrize("layer", ["config", "errors", "events", "run", "types", "volume"])
def test_layer_imports_without_torch(layer: str) -> None:
    _import_without(_in(layer), ["torch", "monai"])


@pytest.mark.skipif("napari_crln.cli" not in MODULES, reason="no command line in this tree")
def test_command_line_starts_without_torch_and_viewer() -> None:
    _import_without(["napari_crln.cli"], ["torch", "monai", *VIEWER])


def test_import_of_the_package_loads_nothing_heavy() -> None:
    loaded = _import_without(["napari_crln"], [])
    assert loaded.isdisjoint(
        {"torch", "napari", "zarr", "numpy", "scipy", "pydantic", "dask", "matplotlib", "nibabel"}
    )


def test_import_of_the_package_is_fast_beside_that_of_numpy() -> None:
    """Relative, since machines differ: a tenth of numpy's time, the best of five each, in one interpreter each."""
    code = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
    ours, numpys = (min(float(_python(code.format(n))) for _ in range(5)) for n in ("napari_crln", "numpy"))
    assert ours < numpys / 10
