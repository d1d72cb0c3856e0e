from __future__ import annotations

import resource
from pathlib import Path

import psutil
import pytest

from napari_crln.errors import OutOfMemory
from napari_crln.volume import memory
from napari_crln.volume.memory import available, check_memory

GIBI = 1 << 30
MIBI = 1 << 20
MEMINFO = f"""MemTotal:       {64 * MIBI} kB
MemFree:         {2 * MIBI} kB
MemAvailable:   {40 * MIBI} kB
SwapFree:        {8 * MIBI} kB
HugePages_Total:       0
"""
V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"
NO_LIMIT = 9223372036854771712  # as version 1 writes it


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root folder with 40 GiB free and 8 GiB of swap."""
    write(tmp_path / "proc", meminfo=MEMINFO)
    return tmp_path


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def in_group(root: Path, lines: str) -> None:
    write(root / "proc/self", cgroup=lines)


def group_2(folder: Path, most: object, high: object = "max", current: int = 0, stat: str = "") -> None:
    write(folder, memory__max=most, memory__high=high, memory__current=current, memory__stat=stat)


def group_1(folder: Path, most: int, taken: int = 0, stat: str = "") -> None:
    write(folder, memory__limit_in_bytes=most, memory__usage_in_bytes=taken, memory__stat=stat)


def test_without_limits_it_is_the_machine_s_and_swap_if_asked_for(machine: Path) -> None:
    assert available(root=machine) == 40 * GIBI
    assert available(root=machine, swap=True) == 48 * GIBI
    in_group(machine, "0::/user.slice")
    group_2(machine / V2 / "user.slice", "max", current=GIBI)
    assert available(root=machine) == 40 * GIBI


@pytest.mark.parametrize(("high", "free"), [("max", 13), (10 * GIBI, 7), (20 * GIBI, 13)])
def test_a_job_s_limit_is_less_what_it_took(machine: Path, high: object, free: int) -> None:
    """As Slurm sets it: the limit on the job, the process in a group inside."""
    in_group(machine, "0::/slurm/job_7/step_0")
    group_2(machine / V2 / "slurm/job_7", 16 * GIBI, high, 3 * GIBI)
    group_2(machine / V2 / "slurm/job_7/step_0", "max", current=GIBI)
    assert available(root=machine) == free * GIBI
    assert available(root=machine, swap=True) == free * GIBI


def test_files_that_are_only_cached_are_not_taken(machine: Path) -> None:
    """Reading 100 GB leaves a container at its limit, and nothing is short."""
    stat = f"anon {GIBI}\nfile {3 * GIBI}\ninactive_file {2 * GIBI}\nactive_file {GIBI}\nslab_reclaimable 0"
    in_group(machine, "0::/")
    group_2(machine / V2, 4 * GIBI, current=4 * GIBI, stat=stat)
    assert available(root=machine) == 3 * GIBI


def test_a_container_that_sees_the_host_s_path_has_its_own_group_at_the_mount(machine: Path) -> None:
    in_group(machine, "0::/system.slice/docker-1f.scope")
    group_2(machine / V2, 4 * GIBI, current=GIBI)
    assert available(root=machine) == 3 * GIBI


def test_version_1_with_the_unified_hierarchy_beside_it(machine: Path) -> None:
    in_group(machine, "5:cpu,cpuacct:/a\n4:memory:/slurm/job_7\n0::/")
    (machine / V2 / "unified").mkdir(parents=True)
    stat = f"total_inactive_file {GIBI}\ntotal_active_file 0\ninactive_file {9 * GIBI}"
    group_1(machine / V1, NO_LIMIT, 30 * GIBI)
    assert available(root=machine) == 40 * GIBI
    group_1(machine / V1 / "slurm/job_7", 8 * GIBI, 3 * GIBI, stat)
    assert available(root=machine) == 6 * GIBI


def test_a_group_at_its_limit_has_nothing(machine: Path) -> None:
    in_group(machine, "0::/")
    group_2(machine / V2, GIBI, current=2 * GIBI)
    assert available(root=machine) == 0


@pytest.mark.parametrize("lines", ["", "rubbish", "0::/../../..", "4:memory", "::::"])
def test_lines_that_make_no_sense_limit_nothing(machine: Path, lines: str) -> None:
    in_group(machine, lines)
    group_2(machine / V2, "many", current=GIBI)
    assert available(root=machine) == 40 * GIBI


def test_where_there_is_no_proc_psutil_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = available(root=tmp_path)
    assert free is not None
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.5)
    monkeypatch.setitem(__import__("sys").modules, "psutil", None)
    assert available(root=tmp_path) is None


def test_the_limit_of_the_process_counts(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (8 * GIBI, 8 * GIBI))
    write(machine / "proc/self", statm=f"{GIBI // resource.getpagesize()} 1 1 1 0 1 0")
    assert available(root=machine) == 7 * GIBI


def test_what_does_not_fit_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda swap: 100)
    check_memory(100, "the image", "Use a larger machine")
    with pytest.raises(
        OutOfMemory, match=r"the image takes 101 bytes and 100 are free.*Use a larger machine"
    ):
        check_memory(101, "the image", "Use a larger machine")
