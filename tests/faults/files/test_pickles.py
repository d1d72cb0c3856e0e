"""Files that carry code: none is ever executed, and no call that could do so is in the source."""

from __future__ import annotations

import ast
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from playground import Call, Playground, packed

import napari_crln
from napari_crln import config
from napari_crln.engine import checkpoint, manifest
from napari_crln.errors import ConfigError, CorruptCheckpoint, CrlnError, ProjectError
from napari_crln.gui import project_reader, readers
from napari_crln.volume.project import Project

SOURCE = Path(napari_crln.__file__).parent
_LOADERS = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "yaml",
    "jsonpickle",
}
_CALLS = {
    "torch.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "np.load", "numpy.load",
    "pandas.read_pickle", "os.system", "os.popen", "eval", "exec", "compile", "__import__",
}  # fmt: skip


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(ground: Playground) -> Iterator[Path]:
    """What a bomb would make; the bomb is live, and nothing here sets it off."""
    mark = ground.outside / "executed"
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()
    mark.unlink()
    yield mark
    assert not mark.exists(), "code from a file was executed"


def _pickle(mark: Path) -> bytes:
    return pickle.dumps(Bomb(mark))


def _npy(mark: Path, folder: Path) -> bytes:
    array = np.empty(1, object)
    array[0] = Bomb(mark)
    np.save(folder / "o.npy", array, allow_pickle=True)
    return (folder / "o.npy").read_bytes()


def _pt(mark: Path, folder: Path) -> bytes:
    torch.save({"weights": Bomb(mark)}, folder / "o.pt")
    return (folder / "o.pt").read_bytes()


@pytest.mark.parametrize("name", ["a.pt", "a.npy", "a.pkl", "a.nii", "a.nii.gz", "a.zarr.zip"])
@pytest.mark.parametrize("kind", ["pickle", "npy", "pt"])
def test_import_and_readers_refuse(
    empty: Project, ground: Playground, call: Call, mark: Path, name: str, kind: str,
    sound: Callable[[Project], None],
) -> None:  # fmt: skip
    content = {"pickle": _pickle(mark), "npy": _npy(mark, ground.inside), "pt": _pt(mark, ground.inside)}[
        kind
    ]
    path = ground.inside / name
    path.write_bytes(packed(content) if name.endswith(".gz") else content)
    for command in (("import", path, empty.path), ("inspect", path)):
        answer = call(*command)
        assert answer.code == 3, answer.err
        assert name in answer.err
        assert "Traceback" not in answer.err
    assert project_reader.get_reader(str(path)) is None
    reader = readers.get_reader(str(path))
    if reader is not None:
        with pytest.raises(CrlnError):
            reader(str(path))
    sound(empty)


def _snapshot() -> checkpoint.Snapshot:
    return checkpoint.Snapshot(1, {"student": {"w": torch.ones(2)}}, {"classes": ["a"]})


def test_a_checkpoint_with_a_pickle_for_tensors_is_refused(ground: Playground, mark: Path) -> None:
    """With a right manifest: sha256 proves bytes, not intentions."""
    path = checkpoint.save(ground.inside, _snapshot(), keep=1)
    files = {"state.json": (path / "state.json").read_bytes(), "student.safetensors": _pickle(mark)}
    (path / "student.safetensors").write_bytes(files["student.safetensors"])
    (path / manifest.MANIFEST_FILE).write_bytes(manifest.make(files, schema_version=1, step=1, best=False))
    with pytest.raises(CorruptCheckpoint, match="not safetensors"):
        checkpoint.load(path)


@pytest.mark.parametrize("name", ["evil.pt", "evil.pkl", "../evil.safetensors", "data.pkl"])
def test_a_checkpoint_that_lists_another_kind_of_file_is_refused(
    ground: Playground, mark: Path, name: str
) -> None:
    path = checkpoint.save(ground.inside, _snapshot(), keep=1)
    (path / name).write_bytes(_pickle(mark))
    record = manifest.make({name: _pickle(mark)}, schema_version=1, step=1, best=False)
    (path / manifest.MANIFEST_FILE).write_bytes(record)
    with pytest.raises(CorruptCheckpoint):
        checkpoint.load(path)


def test_a_pickle_beside_the_files_of_a_checkpoint_is_not_opened(ground: Playground, mark: Path) -> None:
    path = checkpoint.save(ground.inside, _snapshot(), keep=1)
    (path / "student.pt").write_bytes(_pickle(mark))
    assert torch.equal(checkpoint.load(path).tensors["student"]["w"], torch.ones(2))


TAGS = [
    "!!python/object/apply:os.mkdir ['{mark}']",
    "a: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]",
    "a = __import__('pathlib').Path('{mark}').touch()",
]


@pytest.mark.parametrize("text", TAGS)
def test_yaml_tags_and_expressions_are_no_toml(ground: Playground, call: Call, mark: Path, text: str) -> None:
    text = text.format(mark=mark)
    for folder, file, kind in [("p", "project.toml", ProjectError), ("r", "config.toml", ConfigError)]:
        (ground.inside / folder).mkdir()
        path = ground.inside / folder / file
        path.write_text(text)
        read = Project.open if kind is ProjectError else config.load
        with pytest.raises(kind, match="not TOML"):
            read(path.parent if kind is ProjectError else path)
    (ground.inside / "dataset.json").write_text(text)
    assert call("import", ground.inside, ground.project_path, "--labelled=1").code == 3


def test_an_override_is_a_value_and_never_an_expression(mark: Path) -> None:
    text = f"__import__('pathlib').Path('{mark}').touch()"
    assert config.assignment(f"engine.device={text}") == {"engine": {"device": text}}
    with pytest.raises(ConfigError):
        config.build(config.assignment(f"iterations={text}"))


def _hides(alias: ast.alias) -> bool:
    """Whether an import gives a module with a dangerous call another name than the one that is looked for."""
    usual = {"numpy": "np"}.get(alias.name, alias.name)
    return alias.asname not in (None, usual) and any(call.startswith(f"{alias.name}.") for call in _CALLS)


def _dangers(text: str) -> list[str]:
    """What in a source loads pickles, parses YAML with its tags, executes text, or Python files of the current folder."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in _LOADERS]
            found += [f"{a.name} as {a.asname}" for a in node.names if _hides(a)]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{a.name}" for a in node.names]
            found += [n for n in names if n in _CALLS or n.split(".")[0] in _LOADERS]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            risky = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg in ("allow_pickle", "shell")}
            found += [name] * (name in _CALLS or name.split(".")[0] in _LOADERS)
            found += [f"{key}={value}" for key, value in risky.items() if value != "False"]
        elif isinstance(node, ast.List | ast.Tuple):
            words = [ast.unparse(word) for word in node.elts]
            found += ["python without -P"] * ("sys.executable" in words and "'-P'" not in words)
    return found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from joblib import load", "import yaml.loader", "torch.load(p, weights_only=True)", "np.load(p)",
        "from torch import load", "from numpy import load as l", "import torch as t", "from os import system", "f(p, allow_pickle=True)", "f(p, allow_pickle=x)", "eval(t)", "exec(t)", "run(c, shell=True)", "os.system(c)",
        "run([sys.executable, '-m', m])",
    ],
)  # fmt: skip
def test_dangers_are_seen(text: str) -> None:
    assert _dangers(text)


def test_no_loader_of_code_is_in_the_source() -> None:
    sources = sorted(SOURCE.rglob("*.py"))
    assert len(sources) > 100
    found = {str(path.relative_to(SOURCE)): _dangers(path.read_text("utf-8")) for path in sources}
    assert {path: dangers for path, dangers in found.items() if dangers} == {}


def test_a_dataset_json_is_data(ground: Playground, call: Call, mark: Path) -> None:
    tagged = {
        "labels": {"background": 0, "a": 1},
        "training": [{"__reduce__": "os.mkdir", "py/object": str(mark)}],
    }
    (ground.inside / "dataset.json").write_text(json.dumps(tagged))
    answer = call("import", ground.inside, ground.project_path, "--labelled=1")
    assert answer.code == 3, answer.err
