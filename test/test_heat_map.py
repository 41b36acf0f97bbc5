"""A heat map over an image: hot where the heat is, the image elsewhere."""

import numpy as np
import pytest

from flow_policy_ros.vision.heat_map import draw_attention

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_heat_shows_where_it_is_and_nowhere_else():
    heat = np.zeros((3, 4), dtype=np.float32)
    heat[0, 3] = 0.2
    kept = IMAGE.copy()
    drawn = draw_attention(IMAGE, heat)
    changed = (drawn != IMAGE).any(axis=2)
    assert drawn.dtype == np.uint8 and drawn.shape == IMAGE.shape and np.array_equal(IMAGE, kept)
    assert changed[:16, 48:].mean() > 0.95 and not changed[32:].any() and not changed[:, :32].any()
    red, green, blue = drawn[8, 56].astype(int) - (0.3 * IMAGE[8, 56]).astype(int)  # the middle of the hot cell
    assert red > 150 and green > 150 and blue < 130, "yellow in RGB, not in BGR"


def test_the_hottest_is_the_largest_unless_told():
    heat = np.array([[0.1, 0.4]])
    assert np.array_equal(draw_attention(IMAGE, heat), draw_attention(IMAGE, 10 * heat))
    assert np.array_equal(draw_attention(IMAGE, heat, top=0.4), draw_attention(IMAGE, heat))
    cooler, hotter = draw_attention(IMAGE, heat, top=4.0), draw_attention(IMAGE, heat, top=0.05)
    assert (cooler != draw_attention(IMAGE, heat)).any() and (hotter[:, 0] == draw_attention(IMAGE, np.ones((1, 1)))[:, 0]).all()


def test_no_heat_leaves_the_image_and_a_scale_enlarges_it():
    assert np.array_equal(draw_attention(IMAGE, np.zeros((2, 2))), IMAGE)
    assert np.array_equal(draw_attention(IMAGE, np.zeros((2, 2)), scale=2), IMAGE.repeat(2, axis=0).repeat(2, axis=1))
    assert draw_attention(IMAGE, np.ones((2, 2)), scale=3).shape == (144, 192, 3)


def test_what_is_no_image_or_no_heat_is_named():
    for image in (IMAGE[:, :, 0], IMAGE / 255.0, IMAGE[:, :, :2]):
        with pytest.raises(ValueError, match=r"the image has shape .*, expected \(height, width, 3\) of uint8"):
            draw_attention(image, np.ones((2, 2)))
    for heat in (np.ones(4), np.full((2, 2), np.nan), np.array([[1.0, -0.1]]), np.ones((0, 2))):
        with pytest.raises(ValueError, match=r"the heat has shape .*, expected \(rows, columns\)"):
            draw_attention(IMAGE, heat)
