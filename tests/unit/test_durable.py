from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest

from napari_crln import durable
from napari_crln.errors import OutOfSpace, ProjectError


def test_replace_gives_the_new_content_and_leaves_nothing_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    durable.replace(path, b"one")
    durable.replace(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_replace_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    durable.replace(path, b"one")

    def fail(self: Path, target: Path) -> Path:
        raise PermissionError

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(PermissionError):
        durable.replace(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_write_new_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        durable.write_new(path, b"other")
    assert path.read_bytes() == b"precious"


def content(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def interrupted(path: Path) -> None:
    path.write_text("part")
    raise KeyboardInterrupt


def fill_up(path: Path) -> None:
    path.write_text("part")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_takes_its_place_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with durable.replacing(path) as new:
        new.write_text("new")
        assert path.read_text() == "old"
    with pytest.raises(KeyboardInterrupt), durable.replacing(path) as newer:
        interrupted(newer)
    assert content(tmp_path) == {"a.txt": "new"}


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with durable.replacing(path) as first, durable.replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert content(tmp_path) == {"a.txt": "first"}


def test_a_folder_appears_whole_and_over_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    with durable.creating_folder(path) as new:
        (new / "a").write_text("1")
        assert not path.exists()
    with pytest.raises(ProjectError, match="nothing is overwritten"), durable.creating_folder(path) as late:
        (late / "a").write_text("2")
    assert content(tmp_path) == {"deep/run/a": "1"}
    assert [p.name for p in path.parent.iterdir()] == ["run"]


def test_a_folder_is_replaced_and_a_failure_keeps_the_old(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    for value in ("1", "2"):
        with durable.replacing_folder(path) as new:
            (new / value).write_text(value)
    with pytest.raises(KeyboardInterrupt), durable.replacing_folder(path) as new:
        interrupted(new / "3")
    assert content(tmp_path) == {"labels/2": "2"}


def test_a_kill_between_the_two_renames_is_read_through_and_mended(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    with durable.replacing_folder(path) as new:
        (new / "1").write_text("1")
    path.rename(tmp_path / ".labels.previous")  # as far as a killed writer came
    assert content(durable.current(path)) == {"1": "1"}
    with pytest.raises(ZeroDivisionError), durable.replacing_folder(path):
        _ = 1 / 0
    assert content(durable.current(path)) == {"1": "1"}
    with durable.replacing_folder(path) as new:
        (new / "2").write_text("2")
    assert content(tmp_path) == {"labels/2": "2"}
    assert durable.current(path) == path


@pytest.mark.parametrize("swaps", [0, 1, 3])
def test_a_folder_that_is_replaced_while_it_is_read_is_read_again(tmp_path: Path, swaps: int) -> None:
    path = tmp_path / "f"
    rounds = iter(range(100))

    def replace() -> None:
        number = str(next(rounds))
        with durable.replacing_folder(path) as new:
            new.mkdir(exist_ok=True)
            (new / "a").write_text(number)
            (new / "b").write_text(number)

    def read(folder: Path) -> tuple[str, str]:
        nonlocal swaps
        first = (folder / "a").read_text()
        if swaps:
            swaps -= 1
            replace()
        return first, (folder / "b").read_text()

    replace()
    first, second = durable.read_whole(path, read)
    assert first == second, "half old, half new"
    assert int(second) == next(rounds) - 1, "of an older one"


def test_what_is_wrong_with_a_folder_that_stays_is_told(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(FileNotFoundError):
        durable.read_whole(tmp_path / "f", lambda folder: (folder / "a").read_text())


def test_many_replacing_a_folder_leave_one_whole(tmp_path: Path) -> None:
    path, errors = tmp_path / "labels", list[BaseException]()

    def write(value: int) -> None:
        try:
            for _ in range(10):
                with durable.replacing_folder(path) as new:
                    for name in ("a", "b"):
                        (new / name).write_text(str(value))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    found = content(tmp_path)
    assert set(found) == {"labels/a", "labels/b"}
    assert found["labels/a"] == found["labels/b"]


def test_only_what_dead_processes_of_this_machine_left_is_swept(tmp_path: Path) -> None:
    mine = durable.temporary(tmp_path / "a").name
    host, pid = mine.removeprefix(".tmp-").split("-")[:2]
    assert int(pid) == os.getpid()
    dead = mine.replace(f"-{pid}-", "-999999999-")
    kept = {mine, dead.replace(host, f"{host}.elsewhere"), ".tmp-mine", "a", dead.removeprefix(".")}
    for name in (*kept, dead, f"{dead}.txt"):
        (tmp_path / name).mkdir() if name != f"{dead}.txt" else (tmp_path / name).write_text("")
    durable.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_names_aside_fit_the_file_system(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 120 + ".nii.gz")
    durable.replace(path, b"x")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_full_disk_is_told_with_what_was_aside_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)

    def measured(folder: Path) -> object:
        return usage._replace(free=700 if not any(tmp_path.iterdir()) else 5)

    monkeypatch.setattr(shutil, "disk_usage", measured)
    with (
        pytest.raises(OutOfSpace, match="more than 700 bytes are needed and 700 are free"),
        durable.creating_folder(tmp_path / "a") as new,
    ):
        fill_up(new / "part")


def test_what_is_known_not_to_fit_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutOfSpace, match="3 bytes are needed and 2 are free"):
        durable.replace(tmp_path / "a", b"123")
    assert list(tmp_path.iterdir()) == []


def test_other_faults_of_the_system_pass_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), durable.space_for(tmp_path):
        raise PermissionError
