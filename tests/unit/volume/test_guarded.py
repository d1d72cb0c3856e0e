"""The guard over zarr's codecs rests on a private method: a zarr without it is refused, not trusted."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys

import pytest
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

from napari_crln.volume.guarded import BoundedBlosc, BoundedZstd, require_hook


class _Renamed:
    """A codec of a later zarr, that decodes by another method."""

    def _decode_one(self) -> None: ...


def test_a_codec_that_decodes_by_another_method_is_refused_by_name_and_remedy() -> None:
    with pytest.raises(
        ImportError, match=re.escape(f"zarr {zarr.__version__} has no _Renamed._decode_single")
    ) as met:
        require_hook(_Renamed)
    assert "pip install 'zarr>=" in str(met.value)


def test_an_inherited_method_is_not_enough() -> None:
    """Every codec inherits one of the base class that nothing calls where the codec has another way."""

    class Another(BloscCodec):
        pass

    with pytest.raises(ImportError, match="Another"):
        require_hook(Another)


@pytest.mark.parametrize("codec", ["BloscCodec", "ZstdCodec"])
def test_importing_fails_where_zarr_has_renamed_it(codec: str) -> None:
    code = f"""
import zarr.codecs
zarr.codecs.{codec}._decode_one = zarr.codecs.{codec}._decode_single
del zarr.codecs.{codec}._decode_single
import napari_crln.volume.guarded
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == 1
    assert f"ImportError: zarr {zarr.__version__} has no {codec}._decode_single" in done.stderr


@pytest.mark.parametrize(("ours", "zarrs"), [(BoundedBlosc, BloscCodec), (BoundedZstd, ZstdCodec)])
def test_the_guard_overrides_what_zarr_defines(ours: type, zarrs: type) -> None:
    assert vars(ours).keys() & vars(zarrs).keys() >= {"_decode_single"}
    assert asyncio.iscoroutinefunction(vars(zarrs)["_decode_single"])
