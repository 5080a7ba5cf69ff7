"""Eight bits on disk: ranges, background, channel order, and the way back to millimetres."""

import numpy as np
import pytest

from smile.config import ViewConfig
from smile.views import FAR, NEAR, Maps, depth_mm, encode

SIZE = 16


def maps(z: float = -30.0, normal: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> Maps:
    """One view, the upper half of it filled."""
    depth = np.full((1, SIZE, SIZE), np.nan, np.float32)
    normals = np.zeros((1, SIZE, SIZE, 3), np.float32)
    colour = np.full((1, SIZE, SIZE, 3), 9, np.uint8)  # the background too: encode must clear it
    depth[:, : SIZE // 2], normals[:, : SIZE // 2], colour[:, : SIZE // 2] = z, normal, (10, 20, 30)
    return Maps(depth, normals, colour)


def test_channels_lie_where_the_configuration_says() -> None:
    config = ViewConfig(yaws=(0.0,), size=SIZE)
    out = encode(maps(), config)
    assert out.shape == (1, 7, SIZE, SIZE) and out.dtype == np.uint8
    slices = config.channel_slices()
    np.testing.assert_array_equal(out[0, slices["texture"], 0, 0], [10, 20, 30])
    np.testing.assert_array_equal(out[0, slices["depth"], 0, 0], [1 + round((-30 + 120) / 160 * 254)])
    np.testing.assert_array_equal(out[0, slices["normals"], 0, 0], [128, 128, 255])
    assert not out[:, :, SIZE // 2 :].any()  # nothing is nothing, in every channel


@pytest.mark.parametrize("modality", ["texture", "depth", "normals"])
def test_one_modality_alone(modality: str) -> None:
    every = ViewConfig(yaws=(0.0,), size=SIZE)
    only = ViewConfig(yaws=(0.0,), size=SIZE, modalities=(modality,))
    np.testing.assert_array_equal(
        encode(maps(), only), encode(maps(), every)[:, every.channel_slices()[modality]]
    )


@pytest.mark.parametrize(("z", "code"), [(FAR, 1), (NEAR, 255), (-500.0, 1), (500.0, 255), (-40.0, 128)])
def test_depth_range_is_clipped_and_never_0(z: float, code: int) -> None:
    only_depth = ViewConfig(yaws=(0.0,), size=SIZE, modalities=("depth",))
    assert encode(maps(z), only_depth)[0, 0, 0, 0] == code


def test_depth_comes_back_to_within_half_a_step() -> None:
    only_depth = ViewConfig(yaws=(0.0,), size=SIZE, modalities=("depth",))
    for z in np.linspace(FAR, NEAR, 57):
        back = depth_mm(encode(maps(float(z)), only_depth)[0, 0])
        assert back.dtype == np.float32
        assert np.abs(back[: SIZE // 2] - z).max() <= (NEAR - FAR) / 254 / 2 + 1e-4
        assert np.isnan(back[SIZE // 2 :]).all()
    codes = np.arange(1, 256, dtype=np.uint8)  # and the other way round it is exact
    again = np.rint((depth_mm(codes) - FAR) / (NEAR - FAR) * 254) + 1
    np.testing.assert_array_equal(again, codes)


def test_normals_use_1_to_255_with_0_in_the_middle() -> None:
    only_normals = ViewConfig(yaws=(0.0,), size=SIZE, modalities=("normals",))
    code = encode(maps(normal=(-1.0, 0.6, 0.8)), only_normals)[0, :, 0, 0]
    np.testing.assert_array_equal(code, [1, 204, 230])
    np.testing.assert_allclose((code.astype(float) - 1) / 127 - 1, [-1, 0.6, 0.8], atol=1 / 254)
