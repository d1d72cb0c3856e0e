from __future__ import annotations

import numpy as np
import pytest

from napari_crln.errors import InvalidLabel
from napari_crln.types import IGNORE
from napari_crln.volume.labels import ClassTable, LabelClass


def test_three_numberings(table: ClassTable) -> None:
    ids = np.array([[[0, 4, 7]]])
    annotation = table.encode(ids)
    assert annotation.dtype == np.uint8
    assert annotation.tolist() == [[[1, 2, 3]]]
    targets = table.targets(annotation)
    assert targets.dtype == np.int16
    assert targets.tolist() == [[[0, 1, 2]]]
    assert table.decode(np.array([[[0, 1, 2]]], np.uint8)).tolist() == ids.tolist()
    assert table.names == ("background", "head", "tail")
    assert len(table) == 3


@pytest.mark.parametrize("far", [-3, -(1 << 40)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64])
def test_ids_that_the_label_s_dtype_cannot_hold(far: int, dtype: type) -> None:
    table = ClassTable.from_ids({"background": 5, "a": far, "b": 9})
    labels = np.array([5, 9, 5], dtype)
    assert table.encode(labels).tolist() == [1, 3, 1]
    with pytest.raises(InvalidLabel, match="unknown label id 0, 200"):
        table.encode(np.array([5, 0, 200, 9], dtype))


def test_not_annotated_is_ignored(table: ClassTable) -> None:
    assert table.encode(np.array([0, 255, 4]), ignore=255).tolist() == [1, 0, 2]
    assert table.targets(np.array([0, 1], np.uint8)).tolist() == [IGNORE, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_unknown_ids_are_all_named_with_the_table(table: ClassTable, dtype: type) -> None:
    with pytest.raises(InvalidLabel) as caught:
        table.encode(np.array([0, 1, 9, 4], dtype), where="seg.nii")
    assert str(caught.value) == (
        "seg.nii: unknown label id 1, 9; the project's classes are 0 = background, 4 = head, 7 = tail. "
        "Correct the label, or create the project with these classes"
    )


def test_far_apart_and_negative_ids() -> None:
    table = ClassTable.from_ids({"background": 0, "low": -3, "high": 2**40})
    ids = np.array([2**40, 0, -3, 0])
    assert table.encode(ids).tolist() == [3, 1, 2, 1]
    with pytest.raises(InvalidLabel, match="id 5;"):
        table.encode(np.array([5]))
    assert table.decode(np.array([2, 1], np.uint8)).tolist() == [2**40, -3]


def test_decoded_dtype_is_the_smallest() -> None:
    assert ClassTable.from_ids({"b": 0, "a": 255}).decode(np.zeros(1, np.uint8)).dtype == np.uint8
    assert ClassTable.from_ids({"b": 0, "a": 256}).decode(np.zeros(1, np.uint8)).dtype == np.uint16
    assert ClassTable.from_ids({"b": 0, "a": -1}).decode(np.zeros(1, np.uint8)).dtype == np.int16


def test_many_classes_need_two_bytes() -> None:
    table = ClassTable.from_ids({f"c{i}": i for i in range(300)})
    ids = np.arange(300)
    annotation = table.encode(ids)
    assert annotation.dtype == np.uint16
    assert table.targets(annotation).tolist() == ids.tolist()


def test_decode_refuses_what_is_no_class(table: ClassTable) -> None:
    with pytest.raises(InvalidLabel, match="class index 3"):
        table.decode(np.array([3], np.uint8))


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ([LabelClass(0, "a", "#000000", 0)], "at least one class"),
        ([LabelClass(0, "a", "#000000", 0), LabelClass(2, "b", "#000000", 1)], "numbered 0"),
        ([LabelClass(0, "a", "#000000", 0), LabelClass(1, "a", "#000000", 1)], "two classes with name 'a'"),
        (
            [LabelClass(0, "a", "#000000", 0), LabelClass(1, "b", "#000000", 0)],
            "two classes with source id 0",
        ),
    ],
)
def test_bad_tables(classes: list[LabelClass], words: str) -> None:
    with pytest.raises(InvalidLabel, match=words):
        ClassTable(classes)
