"""The annotation of one volume: `labels/annotation`, and how it changes.

It is replaced as a whole, or a region of it is changed: then only the chunks that differ are written, at every level,
by a journal (`journal.py`), so that a reader sees the voxels before or after and never some of both. Every change
counts the revision up by one, under the lock of `editing.py`, and the record keeps the boxes of the last
changes: who has an older revision need not read the whole again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from napari_crln.durable import check_within, current, recover, replacing_folder, space_for
from napari_crln.errors import CorruptData, ProjectError
from napari_crln.lock import exclusive_folder
from napari_crln.types import NOT_ANNOTATED, AnnotationDHW, Coverage, ShapeDHW
from napari_crln.volume import journal, ome, pyramid, store
from napari_crln.volume.checks import check_annotation, check_region
from napari_crln.volume.editing import editor, writing
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.seal import KEY

#: Start and stop along D, H, W.
Box: TypeAlias = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
_MOST_CHANGES = 64
_ATTEMPTS = 5


class AnnotationRecord(BaseModel):
    """Our attributes of an annotation.

    Parameters
    ----------
    annotated : number of annotated voxels; None where an older version wrote it
    changes : revision and box of the last changes, oldest first; what is older replaced the whole
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    coverage: Coverage
    revision: int
    annotated: int | None = None
    changes: tuple[tuple[int, Box], ...] = ()


class Annotated(NamedTuple):
    """Annotation values, (D, H, W) or of a region, and the revision that they are of."""

    values: AnnotationDHW
    revision: int


class Place(NamedTuple):
    """Where an annotation lies, and what it is measured against."""

    volume: Path
    grid: Grid
    classes: ClassTable


def folder_of(volume: Path) -> Path:
    """The folder of a volume's annotation, also in the moment in which it is replaced.

    Raises
    ------
    ProjectError
        If a link leads out of the project there.
    """
    check_within(volume / "labels" / "annotation", volume.parent.parent)
    return current(volume / "labels" / "annotation")


def record_of(volume: Path) -> AnnotationRecord:
    """Coverage, revision and the like, as last written."""
    return read_record(folder_of(volume))


def read_record(folder: Path) -> AnnotationRecord:
    """The record of an annotation, or of an earlier one in the history.

    Raises
    ------
    CorruptData
    """
    try:
        return AnnotationRecord.model_validate(store.read_attributes(folder).get(KEY))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or KEY
        raise CorruptData(
            f"attribute {field}: {first['msg']}", "it is as import wrote it", "Import it again", folder
        ) from error


def read(volume: Path, box: Box | None = None) -> Annotated:
    """Read an annotation, or a box of it, of one revision: never half old, half new.

    Raises
    ------
    CorruptData
        If a chunk is missing or fails its checksum.
    """
    _finish_for_the_dead(volume)
    for _ in range(_ATTEMPTS):
        revision = record_of(volume).revision
        try:
            values = _read(volume, box)
        except (CorruptData, FileNotFoundError):
            if _is_now(volume, revision):
                raise
            continue
        if _is_now(volume, revision):
            return Annotated(values, revision)
    with exclusive_folder(volume / "labels"):  # writers wait for us now
        return Annotated(_read(volume, box), record_of(volume).revision)


def changes_since(volume: Path, revision: int) -> Box | None:
    """The box that holds all that has changed since a revision; None if that may be anywhere."""
    record = record_of(volume)
    known = {number: box for number, box in record.changes if number > revision}
    if revision >= record.revision or len(known) != record.revision - revision:
        return None
    low = np.min([[start for start, _ in box] for box in known.values()], axis=0).tolist()
    high = np.max([[stop for _, stop in box] for box in known.values()], axis=0).tolist()
    return (low[0], high[0]), (low[1], high[1]), (low[2], high[2])


def signature(volume: Path) -> tuple[int, ...]:
    """What differs after each write: cheap enough to ask of hundreds of volumes every second."""
    try:
        status = (folder_of(volume) / "zarr.json").stat()
    except FileNotFoundError:
        return ()
    return status.st_mtime_ns, status.st_ino, status.st_size


def write(place: Place, values: AnnotationDHW, coverage: Coverage, expected: int | None = None) -> int:
    """Replace an annotation, whole or not at all.

    Parameters
    ----------
    expected : the revision that is replaced; another one is refused

    Returns
    -------
    The new revision.
    """
    volume = place.volume
    check_annotation(values, place.grid, place.classes, volume.stem)
    with writing(volume):
        roll_forward(volume)
        revision = _revision(volume)
        if expected is not None and revision != expected:
            raise ProjectError(
                "its annotation changed meanwhile", "one edits at a time", "Look at it, and repeat", volume
            )
        with replacing_folder(volume / "labels" / "annotation") as folder:
            fill_annotation(folder, values, place.grid, place.classes, coverage, revision=revision + 1)
        list_labels(volume)
    return revision + 1


def write_region(
    place: Place,
    start: ShapeDHW,
    values: AnnotationDHW,
    where: NDArray[np.bool_] | None = None,
    *,
    tidy: bool = True,
) -> int:
    """Change a region of an annotation, whole or not at all; a volume without one gets a sparse one.

    Erasing voxels of a dense annotation makes it sparse.

    Parameters
    ----------
    start : first voxel of the region, D, H, W
    values : annotation values of the region
    where : voxels of the region to write; none: all
    tidy : `settle` too; who leaves it out, to be done sooner, calls that later

    Returns
    -------
    The new revision, or the old one if nothing differs.
    """
    check_region(start, values, place.grid, place.classes, place.volume.stem)
    with writing(place.volume), space_for(place.volume):
        roll_forward(place.volume)
        if not folder_of(place.volume).exists():
            empty = np.zeros(place.grid.shape, place.classes.index_dtype)
            return _rewritten(place, empty, start, values, where)
        if store.has_shards(folder_of(place.volume) / "0"):
            return _rewritten(place, _read(place.volume, None), start, values, where)
        revision = _changed(place, start, values, where)
        if tidy:
            _settle(place.volume)
        return revision


def settle(volume: Path) -> None:
    """After `write_region` without `tidy`: bring what it laid out to the disk, and remove its journal.

    The change is made and durable before; this spares the next writer, or reader, some work.
    """
    with writing(volume):
        _settle(volume)


def fill_annotation(
    folder: Path,
    annotation: AnnotationDHW,
    grid: Grid,
    classes: ClassTable,
    coverage: Coverage,
    *,
    revision: int = 1,
) -> None:
    """Fill a new folder with an annotation; nothing is checked or synced here."""
    levels = pyramid.plan(grid.shape, grid.spacing)
    described = ome.label("annotation", levels, classes, offset=1)
    annotated = int(np.count_nonzero(annotation))
    record = AnnotationRecord(coverage=coverage, revision=revision, annotated=annotated)
    data = annotation.astype(classes.index_dtype, copy=False)
    attributes = {"ome": described, KEY: record.model_dump(mode="json")}
    store.write_multiscale(folder, data, levels, "label", attributes, sharded=False)


def list_labels(volume: Path) -> None:
    """Write the OME list of a volume's labels from what is there."""
    labels = volume / "labels"
    names = sorted(p.name for p in labels.iterdir() if p.is_dir() and not p.name.startswith("."))
    store.write_group(labels, {"ome": ome.label_list(names)})


def _read(volume: Path, box: Box | None) -> AnnotationDHW:
    level = folder_of(volume) / "0"
    return store.read(level) if box is None else store.read(level, tuple(slice(*span) for span in box))


def _is_now(volume: Path, revision: int) -> bool:
    """Whether what was just read is of this revision, with nothing on its way."""
    return not journal.is_pending(_journal(volume), revision) and _revision(volume) == revision


def _revision(volume: Path) -> int:
    return record_of(volume).revision if folder_of(volume).exists() else 0


def _journal(volume: Path) -> Path:
    return volume.with_name(f".{volume.name}.change")


def _finish_for_the_dead(volume: Path) -> None:
    """Complete what a writer that is gone has committed; nothing where that is impossible (read-only folder)."""
    if editor(volume) is None and journal.revisions(_journal(volume)):
        try:
            with writing(volume):
                roll_forward(volume)
        except CorruptData:
            raise
        except ProjectError:
            return


def _settle(volume: Path) -> None:
    for revision in journal.revisions(_journal(volume)):
        journal.settle(_journal(volume), folder_of(volume), revision)


def roll_forward(volume: Path) -> None:
    """Put into place what journals hold of writers that were killed; the caller holds the annotation."""
    folder_of(volume)  # no link
    recover(volume / "labels" / "annotation")
    folder = volume / "labels" / "annotation"
    for revision in journal.revisions(_journal(volume)):
        if revision >= _revision(volume):
            journal.lay_out(_journal(volume), folder, revision)
            journal.settle(_journal(volume), folder, revision)
        else:  # the whole was replaced since
            journal.discard(_journal(volume), revision)


def _rewritten(
    place: Place,
    whole: AnnotationDHW,
    start: ShapeDHW,
    values: AnnotationDHW,
    where: NDArray[np.bool_] | None,
) -> int:
    """A region of what has no chunks to change: no annotation yet, or one of an older version."""
    region = whole[tuple(slice(s, s + n) for s, n in zip(start, values.shape, strict=True))]
    np.copyto(region, values, where=True if where is None else where, casting="unsafe")
    dense = folder_of(place.volume).exists() and record_of(place.volume).coverage == "dense"
    return write(place, whole, "dense" if dense and whole.all() else "sparse")


def _changed(place: Place, start: ShapeDHW, values: AnnotationDHW, where: NDArray[np.bool_] | None) -> int:
    folder, record = folder_of(place.volume), record_of(place.volume)
    box: Box = tuple((s, s + n) for s, n in zip(start, values.shape, strict=True))  # type: ignore[assignment]
    before = _read(place.volume, box)
    after = values.astype(before.dtype)
    if where is not None:
        after = np.where(where, after, before)
    files = _files(folder, place.grid, start, after)
    if not files:
        return record.revision
    record = _next_record(record, box, before, after, lambda: _read(place.volume, None))
    attributes = store.read_attributes(folder) | {KEY: record.model_dump(mode="json")}
    files[journal.LAST] = store.group_json(attributes).encode()
    with exclusive_folder(place.volume / "labels"):
        journal.commit(_journal(place.volume), record.revision, files)
        journal.lay_out(_journal(place.volume), folder, record.revision)
    return record.revision


def _files(folder: Path, grid: Grid, start: Sequence[int], values: AnnotationDHW) -> dict[str, bytes]:
    """Every chunk file of every level that differs once `values` lie at `start`."""
    files: dict[str, bytes] = {}
    for number, level in enumerate(pyramid.plan(grid.shape, grid.spacing)):
        first = [-(-s // f) for s, f in zip(start, level.factors, strict=True)]
        skip = (f * new - s for f, new, s in zip(level.factors, first, start, strict=True))
        values = pyramid.decimate(values[tuple(slice(n, None) for n in skip)], level.factors)
        start = first
        if not values.size:
            break
        chunks = store.changed_chunks(folder / str(number), start, values)
        files |= {f"{number}/{key}": content for key, content in chunks.items()}
    return files


def _next_record(
    record: AnnotationRecord,
    box: Box,
    before: AnnotationDHW,
    after: AnnotationDHW,
    read_all: Callable[[], AnnotationDHW],
) -> AnnotationRecord:
    count = record.annotated
    count = int(np.count_nonzero(read_all())) if count is None else count
    revision = record.revision + 1
    erased = record.coverage == "dense" and bool((after == NOT_ANNOTATED).any())
    return AnnotationRecord(
        coverage="sparse" if erased else record.coverage,
        revision=revision,
        annotated=count + int(np.count_nonzero(after)) - int(np.count_nonzero(before)),
        changes=(*record.changes, (revision, box))[-_MOST_CHANGES:],
    )
