"""Depth to positions of patches: known scenes, distortion both ways, what is invalid, and what is refused by name."""

import cv2
import numpy as np
import pytest
import torch

from flow_policy_ros.models.patch_positions import PatchPositions
from flow_policy_ros.vision.geometry import (
    DepthBuffer,
    DepthError,
    Intrinsics,
    check_transform,
    intrinsics,
    metres,
    patch_positions,
)
from flow_policy_ros.vision.positions import PositionFeatures

K = np.array([[80.0, 0, 39.5], [0, 82.0, 29.5], [0, 0, 1]])
CAMERA = Intrinsics(80, 60, K)
ROBOT = np.array([[0, 0, 1, 0.3], [-1, 0, 0, -0.1], [0, -1, 0, 0.5], [0, 0, 0, 1.0]])  # optical axes to robot axes, shifted


def plane(height=60, width=80, camera=CAMERA):
    """Depth of the plane z = 1 + 0.4 x, exact at each pixel."""
    ys, xs = np.mgrid[:height, :width].astype(float)
    rays = camera.scaled(width, height).rays(np.stack([xs.ravel(), ys.ravel()], axis=1))
    return (1.0 / (1 - 0.4 * rays[:, 0])).reshape(height, width)


@pytest.mark.parametrize("grid", [(3, 4), (6, 8), (5, 7)])
def test_patches_of_a_slanted_plane_lie_on_it(grid):
    points, known = patch_positions(plane(), CAMERA, grid)
    assert points.shape == (grid[0] * grid[1], 3) and points.dtype == np.float32 and known.all()
    assert points[:, 2] == pytest.approx(1 + 0.4 * points[:, 0], abs=6e-3)
    assert (np.diff(points.reshape(*grid, 3)[:, :, 0], axis=1) > 0).all()  # row by row, x to the right
    assert (np.diff(points.reshape(*grid, 3)[:, :, 1], axis=0) > 0).all()  # y down


def test_one_patch_by_hand_and_in_the_robots_frame():
    depth = np.full((60, 80), 2.0)
    points, _ = patch_positions(depth, CAMERA, (2, 2))
    # centre of the first patch is 20 by 15 pixels from the corner, where pixel centres are half a pixel in
    assert points[0] == pytest.approx([(19.5 - 39.5) / 80 * 2, (14.5 - 29.5) / 82 * 2, 2.0])
    moved, _ = patch_positions(depth, CAMERA, (2, 2), transform=ROBOT)
    assert moved[0] == pytest.approx([2.0 + 0.3, 0.5 - 0.1, 15 / 82 * 2 + 0.5])


def test_depth_of_another_resolution_gives_the_same_positions():
    small, known = patch_positions(plane(30, 40), CAMERA, (3, 4))
    large, _ = patch_positions(plane(), CAMERA, (3, 4))
    assert known.all() and small == pytest.approx(large, abs=1e-2)


def test_a_cropped_grid_sees_its_part_only():
    whole, _ = patch_positions(plane(), CAMERA, (6, 8))
    cut, _ = patch_positions(plane(), CAMERA, (6, 6), covered=(10.0, 0.0, 70.0, 60.0))
    assert cut.reshape(6, 6, 3) == pytest.approx(whole.reshape(6, 8, 3)[:, 1:7])


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [
        ("plumb_bob", (-0.2, 0.05, 0.001, -0.002, 0.0)),
        ("rational_polynomial", (0.4, -0.05, 0.0, 0.0, 0.01, 0.05, 0.0, 0.0)),
        ("equidistant", (0.2, -0.01, 0.002, 0.0)),
    ],
)
def test_distorted_pixels_have_the_rays_that_project_to_them(model, coefficients):
    camera = Intrinsics(80, 60, K, model, coefficients)
    rays = np.random.default_rng(0).uniform([-0.45, -0.3, 1], [0.45, 0.3, 1], (50, 3))
    if model == "equidistant":
        pixels = cv2.fisheye.distortPoints(rays[:, None, :2].copy(), K, np.array(coefficients))[:, 0]
    else:
        pixels = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), K, np.array(coefficients))[0][:, 0]
    assert camera.rays(pixels) == pytest.approx(rays, abs=2e-3)
    assert np.abs(Intrinsics(80, 60, K).rays(pixels) - rays).max() > 5e-3  # ignoring the distortion would be seen


def test_pixels_beyond_the_distortion_model_have_no_position():
    camera = Intrinsics(80, 60, np.array([[40.0, 0, 39.5], [0, 40.0, 29.5], [0, 0, 1]]), "plumb_bob", (-0.5, 0.0, 0.0, 0.0, 0.0))
    _, known = patch_positions(np.ones((60, 80)), camera, (6, 8))
    assert not known.reshape(6, 8)[0, 0] and known.reshape(6, 8)[3, 4]


def test_invalid_depth_is_masked_and_the_rest_is_the_median():
    depth = metres(np.full((60, 80), 1500, dtype=np.uint16))
    depth[:20, :20] = np.nan  # a patch without any depth
    depth[20:40, :20][::2] = np.nan  # one with half
    depth[40:60, :2] = 9.0  # one with a few outliers
    points, known = patch_positions(depth, CAMERA, (3, 4))
    assert known.tolist() == [False] + [True] * 11
    assert (points[0] == 0).all()
    assert points[1:, 2] == pytest.approx(np.full(11, 1.5))


def test_metres_of_each_kind():
    near = metres(np.array([[0, 1500, 65535]], dtype=np.uint16))
    assert near[0] == pytest.approx([np.nan, 1.5, np.nan], nan_ok=True)
    floats = np.array([[np.nan, np.inf, -1.0, 0.0, 0.7, 30.0]], dtype=np.float32)
    assert metres(floats)[0] == pytest.approx([np.nan] * 4 + [0.7, np.nan], nan_ok=True)
    assert metres(np.array([[10000]], dtype=np.uint16), scale=1e-4).item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: metres(np.full((2, 2), 1500.0, dtype=np.float32)), "seems millimetres"),
        (lambda: metres(np.ones((2, 2), dtype=np.uint16), scale=0.0), "depth scale is 0.0"),
        (lambda: metres(np.ones((2, 2, 1))), "expected numbers of shape"),
        (lambda: intrinsics(80, 60, [0.0] * 9, [], "plumb_bob"), "not calibrated"),
        (lambda: intrinsics(0, 0, K.ravel(), [], "plumb_bob"), "0 by 0"),
        (lambda: intrinsics(80, 60, K.ravel(), [0.1] * 5, "thin_prism"), "'thin_prism', expected one of plumb_bob"),
        (lambda: intrinsics(80, 60, K.ravel(), [0.1] * 3, "plumb_bob"), "3 coefficients"),
        (lambda: intrinsics(80, 60, K.ravel(), [], "", binning=(2, 2)), "binning"),
        (lambda: intrinsics(80, 60, K.ravel(), [], "", roi=(4, 0, 40, 40)), "region"),
        (lambda: patch_positions(np.ones((60, 60)), CAMERA, (3, 3)), "not the same picture"),
        (lambda: check_transform(np.diag([1.0, 1.0, -1.0, 1.0])), "expected a 4x4 rotation"),
        (lambda: patch_positions(np.ones((60, 80)), CAMERA, (3, 3), transform=np.eye(3)), "expected a 4x4"),
    ],
)
def test_refused_by_name(make, said):
    with pytest.raises(DepthError, match=said):
        make()


def test_a_model_without_distortion_may_have_any_name():
    assert intrinsics(80, 60, K.ravel(), [0.0] * 5, "").rays(np.array([[39.5, 29.5]])) == pytest.approx(np.array([[0, 0, 1.0]]))


def test_depth_is_paired_by_the_nearest_stamp_or_refused():
    buffer = DepthBuffer(tolerance_ns=10_000_000, frame="camera_color_optical_frame")
    with pytest.raises(DepthError, match="no depth image has come"):
        buffer.nearest(0)
    for k in range(3):
        buffer.add(33_000_000 * k, np.full((2, 2), float(k)), "camera_color_optical_frame")
    assert buffer.nearest(30_000_000)[1][0, 0] == 1.0
    assert buffer.nearest(24_000_000)[0] == 33_000_000
    with pytest.raises(DepthError, match=r"-13\.0 ms from it, expected at most 10\.0 ms"):
        buffer.nearest(46_000_000)
    with pytest.raises(DepthError, match="not aligned"):
        buffer.add(0, np.ones((2, 2)), "camera_depth_optical_frame")


def test_positions_are_added_and_unknown_ones_change_nothing_they_hold():
    torch.manual_seed(0)
    add = PatchPositions(8)
    tokens, at = torch.randn(2, 5, 8), torch.randn(2, 5, 3)
    known = torch.tensor([[True, True, False, True, True]] * 2)
    assert torch.equal(add(tokens, at, known), tokens)  # at the beginning nothing
    torch.nn.init.normal_(add.mlp[2].weight)
    changed = add(tokens, at, known) - tokens
    assert (changed[:, 2] == 0).all() and (changed[:, :2].abs().amax(-1) > 1e-3).all()
    at[:, 2] = torch.nan
    out = add(tokens, at, known)
    assert torch.equal(out - tokens, changed)
    out.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in add.parameters())
    with pytest.raises(ValueError, match="positions"):
        add(tokens, at[:, :4], known)


def test_it_learns_a_function_of_position():
    torch.manual_seed(0)
    add = PatchPositions(4)
    optimiser = torch.optim.Adam(add.parameters(), 3e-3)
    at = torch.rand(256, 1, 3) * 2 - 1
    target = torch.sin(4 * at.sum(-1, keepdim=True)).expand(-1, -1, 4)
    known = torch.ones(256, 1, dtype=torch.bool)
    for _ in range(300):
        loss = (add(torch.zeros(256, 1, 4), at, known) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.05 * target.var()


def test_positions_as_a_stream_beside_the_image():
    stream = PositionFeatures(CAMERA, (3, 4), None, frame="colour", transform=ROBOT, target="base", tolerance_ns=5_000_000)
    image = np.zeros((60, 80, 3), np.uint8)
    with pytest.raises(DepthError, match="no depth image has come"):
        stream.extract(image, 0)
    depth = np.full((60, 80), 1500, np.uint16)
    depth[:20, :20] = 0
    stream.add_depth(depth, 1_000_000, "colour")
    found = stream.extract(image, 3_000_000)
    assert (found.stamp, found.values.shape, found.values.dtype) == (3_000_000, (stream.tokens, stream.channels), np.float32)
    assert found.values[:, 3].tolist() == [0] + [1] * 11 and (found.values[0] == 0).all()
    assert found.values[1:, 0] == pytest.approx(np.full(11, 1.8))  # 1.5 m ahead, and 0.3 m to the camera
    with pytest.raises(DepthError, match="expected at most 5"):
        stream.extract(image, 10_000_000)
    with pytest.raises(DepthError, match="not aligned"):
        stream.add_depth(depth, 2_000_000, "depth")
    with pytest.raises(DepthError, match="form no one grid"):
        PositionFeatures(CAMERA, None, None)
    assert stream.identity()["frame"] == "base" != PositionFeatures(CAMERA, (3, 4), None, frame="colour").identity()["frame"]
