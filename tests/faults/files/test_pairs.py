"""Image and label that disagree: both values are shown, and who follows the remedy gets the volume in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from playground import AFFINE, Call, Playground, ids, save, voxels

from napari_crln.volume.project import Project


class Pair(NamedTuple):
    """What is wrong with a pair of files, what the message must hold, and how its remedy is followed.

    `mend` is given the paths of image and label, may change the files, and returns further options.
    """

    label: Callable[[Path], Path]
    words: tuple[str, ...]
    remedy: str
    mend: Callable[[Path, Path], tuple[str, ...]]


def _moved(**change: Any) -> Callable[[Path], Path]:
    """The label, with another affine: entries by row and column, as `r0c3=5`."""

    def make(path: Path) -> Path:
        affine = AFFINE.copy()
        for place, value in change.items():
            affine[int(place[1]), int(place[3])] = value
        return save(path, ids(), affine)

    return make


def _resample(image: Path, label: Path) -> tuple[str, ...]:
    """As people do: nearest neighbour, onto the image's grid."""
    loaded = nib.load(label)
    resampled = resample_from_to(loaded, nib.load(image), order=0)
    save(label, np.asarray(resampled.dataobj).astype(np.uint8), nib.load(image).affine)
    return ()


def _right_file(image: Path, label: Path) -> tuple[str, ...]:
    save(label, ids())
    return ()


RESAMPLE = "Resample the label to the image"
PAIRS = {
    "shape": Pair(
        lambda p: save(p, ids()[:-1]), ("(22, 20, 17)", "(22, 20, 18)"), "pair the right files", _right_file
    ),
    "axes swapped": Pair(
        lambda p: save(p, ids().swapaxes(0, 1), AFFINE), ("(22, 18, 20)", "(22, 20, 18)"), RESAMPLE, _resample
    ),
    "shifted": Pair(_moved(r0c3=32.5), ("0.5 0 0 24;", "0.5 0 0 21.5;", "2.5 mm apart"), RESAMPLE, _resample),
    "spacing": Pair(_moved(r2c2=2.5), ("2.5", " 2 ", "10.5 mm apart"), RESAMPLE, _resample),
    "sheared": Pair(_moved(r0c1=0.1), ("0.1", "affine"), RESAMPLE, _resample),
    "mirrored": Pair(_moved(r0c0=0.5), ("affine", "mm apart"), "pair the right files", _right_file),
    "origin lost": Pair(
        _moved(r0c3=0, r1c3=0, r2c3=0), ("-14.25", "25.75"), "pair the right files", _right_file
    ),
}


@pytest.mark.parametrize("case", PAIRS)
def test_both_values_are_shown_and_the_remedy_works(
    empty: Project, ground: Playground, call: Call, sound: Callable[[Project], None], case: str
) -> None:
    pair = PAIRS[case]
    image = save(ground.inside / "image.nii.gz", voxels())
    label = pair.label(ground.inside / "label.nii.gz")
    answer = call("import", image, empty.path, "--label", label)
    assert answer.code == 3
    assert answer.err.count("\n") == 1
    assert "label.nii.gz: label and image differ" in answer.err
    missing = [word for word in pair.words if word not in answer.err]
    assert not missing, answer.err
    assert pair.remedy in answer.err
    assert not Project.open(empty.path).volumes
    options = pair.mend(image, label)
    answer = call("import", image, empty.path, "--label", label, *options)
    assert answer.code == 0, answer.err
    sound(Project.open(empty.path))


def test_another_orientation_of_the_same_grid_is_no_disagreement(
    empty: Project, ground: Playground, call: Call, sound: Callable[[Project], None]
) -> None:
    """A label stored R→L, on the very voxels of its image: turned, not refused."""
    image = save(ground.inside / "image.nii", voxels())
    turned = AFFINE @ np.array([[-1, 0, 0, 17], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    label = save(ground.inside / "label.nii", ids()[::-1], turned)
    assert call("import", image, empty.path, "--label", label).code == 0
    opened = Project.open(empty.path)
    expected = np.choose(np.searchsorted([0, 4, 7], ids()), [1, 2, 3])[::-1, ::-1].T
    np.testing.assert_array_equal(opened.volumes["image"].read_annotation(), expected)
    sound(opened)


def _header(path: Path, **fields: Any) -> Path:
    """Break header fields of a .nii file in place."""
    content = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(bytes(content))
    return path


class Broken(NamedTuple):
    """A header that makes no sense, what the message shows of it, and how the remedy is followed."""

    fields: dict[str, Any]
    words: str
    remedy: str
    mended: dict[str, Any]


NAN = float("nan")
SOUND = {"srow_x": AFFINE[0], "srow_y": AFFINE[1], "srow_z": AFFINE[2], "sform_code": 1}
HEADERS = {
    "no spacing": Broken({"pixdim": [1, 0, 0.75, 2, 1, 1, 1, 1]}, r"\(0\.0, 0\.75, 2\.0\)", "Set the voxel size",
                         {"pixdim": [1, 0.5, 0.75, 2, 1, 1, 1, 1]}),
    "negative spacing": Broken({"pixdim": [1, 0.5, -0.75, 2, 1, 1, 1, 1]}, r"-0\.75", "Set the voxel size",
                               {"pixdim": [1, 0.5, 0.75, 2, 1, 1, 1, 1]}),
    "NaN in the affine": Broken({"srow_x": [NAN, 0, 0, 30]}, "nan", "Mend the header", SOUND),
    "a flat affine": Broken({"srow_x": [0.5, 0.75, 0, 30], "srow_y": [0.5, 0.75, 0, 40]}, "independent", "Mend the header", SOUND),
    "an unknown code": Broken({"sform_code": 77}, "sform_code 77", "Mend the header", SOUND),
    "an infinite scaling": Broken({"scl_slope": float("inf")}, "inf", "Mend the header", {"scl_slope": 1}),
}  # fmt: skip


@pytest.mark.parametrize("which", ["image", "label"])
@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_make_no_sense(
    empty: Project, ground: Playground, call: Call, sound: Callable[[Project], None], case: str, which: str
) -> None:
    broken = HEADERS[case]
    files = {
        "image": save(ground.inside / "image.nii", voxels()),
        "label": save(ground.inside / "label.nii", ids()),
    }
    _header(files[which], **broken.fields)
    command = "import", files["image"], empty.path, "--label", files["label"]
    answer = call(*command)
    assert answer.code == 3
    assert f"{which}.nii" in answer.err
    assert re.search(broken.words, answer.err), answer.err
    assert broken.remedy in answer.err
    _header(files[which], **broken.mended)
    assert call(*command).code == 0
    sound(Project.open(empty.path))
