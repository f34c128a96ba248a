"""Backbones: heads, seeds, weights from every source, and the errors if they are missing."""

import hashlib
import socket
import time
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from thaw.errors import ModelError
from thaw.nets.backbones import Preprocessing, build_backbone, check_size, default_preprocessing

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("torchvision/alexnet", "classifier.6"),
        ("torchvision/convnext_tiny", "classifier.2"),
        ("torchvision/densenet121", "classifier"),
        ("torchvision/efficientnet_b0", "classifier.1"),
        ("torchvision/googlenet", "fc"),
        ("torchvision/inception_v3", "fc"),
        ("torchvision/mnasnet0_5", "classifier.1"),
        ("torchvision/mobilenet_v2", "classifier.1"),
        ("torchvision/mobilenet_v3_small", "classifier.3"),
        ("torchvision/regnet_y_400mf", "fc"),
        ("torchvision/resnet18", "fc"),
        ("torchvision/shufflenet_v2_x0_5", "fc"),
        ("torchvision/squeezenet1_0", "classifier.1"),
        ("torchvision/swin_t", "head"),
        ("torchvision/vit_b_32", "heads.head"),
        ("timm/convnext_atto", "head.fc"),
        ("timm/crossvit_9_240", "head"),
        ("timm/efficientvit_b0", "head.classifier.4"),
        ("timm/mobilenetv4_conv_small", "classifier"),
        ("timm/resnet18", "fc"),
        ("timm/resnetv2_50x1_bit", "head.fc"),
        ("timm/vit_tiny_patch16_224", "head"),
    ],
)
def test_head(backbone: str, head: str) -> None:
    model, found = build_backbone(backbone, "random", 7, seed=0)
    assert found == head
    side = 240 if "crossvit" in backbone else 224
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, side, side)).shape == (1, 7)


@pytest.mark.slow
def test_every_torchvision_head_has_a_row_for_each_class() -> None:
    for name in torchvision.models.list_models(module=torchvision.models):
        if not name.startswith("regnet"):  # whose constructor needs real numbers; one is above
            with torch.device("meta"):
                model, head = build_backbone(f"torchvision/{name}", "random", 7, seed=0)
            assert model.get_submodule(head).weight.shape[0] == 7, name


def test_random_numbers_follow_from_the_seed_alone(shared_like: Path) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, head = build_backbone("torchvision/mobilenet_v2", "random", 3, seed=5)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    again, _ = build_backbone("torchvision/mobilenet_v2", "random", 3, seed=5)
    other, _ = build_backbone("torchvision/mobilenet_v2", "random", 3, seed=6)
    loaded, _ = build_backbone("torchvision/mobilenet_v2", shared_like, 3, seed=5)
    weights = [model.get_submodule(head).weight for model in (first, again, other, loaded)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(weights[0], weights[3])
    assert torch.equal(first.features[0][0].weight, again.features[0][0].weight)
    assert not torch.equal(first.features[0][0].weight, other.features[0][0].weight)


@pytest.fixture
def shared_like(tmp_path: Path) -> Path:
    """MobileNetV2 in half precision with a head of another width, as a file."""
    torch.manual_seed(9)
    state = torchvision.models.mobilenet_v2(num_classes=11).half().state_dict()
    save_file({name: tensor for name, tensor in state.items() if "num_batches" not in name}, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def test_weights_from_a_file(shared_like: Path) -> None:
    model, head = build_backbone("torchvision/mobilenet_v2", str(shared_like), 3, seed=0)
    stored = load_file(shared_like)
    for name, value in model.state_dict().items():
        if name in stored and not name.startswith(head):
            assert value.dtype == torch.float32
            assert torch.equal(value, stored[name].float())
    assert model.get_submodule(head).out_features == 3


def test_a_head_of_the_same_width_in_a_file_is_not_taken(shared_like: Path) -> None:
    model, head = build_backbone("torchvision/mobilenet_v2", shared_like, 11, seed=0)
    fresh, _ = build_backbone("torchvision/mobilenet_v2", "random", 11, seed=0)
    assert torch.equal(model.get_submodule(head).weight, fresh.get_submodule(head).weight)


@pytest.mark.shared
def test_the_shared_alexnet(shared: Path) -> None:
    file = shared / "weights" / "alexnet_tiny_imagenet_fp16.safetensors"
    model, head = build_backbone("torchvision/alexnet", file, 2, seed=0)
    assert head == "classifier.6"
    assert torch.equal(model.classifier[4].weight, load_file(file)["classifier.4.weight"].float())


def test_files_that_do_not_fit(tmp_path: Path, shared_like: Path) -> None:
    with pytest.raises(ModelError, match=r"does not fit torchvision/resnet18: 'conv1.weight' is missing"):
        build_backbone("torchvision/resnet18", shared_like, 2, seed=0)
    wider = load_file(shared_like) | {"features.0.0.weight": torch.zeros(32, 4, 3, 3)}
    save_file(wider, tmp_path / "wider.safetensors")
    with pytest.raises(ModelError, match=r"'features.0.0.weight' has shape \(32, 4, 3, 3\), not \(32, 3, 3, 3\)"):
        build_backbone("torchvision/mobilenet_v2", tmp_path / "wider.safetensors", 2, seed=0)
    (tmp_path / "broken.safetensors").write_bytes(b"\4\0\0\0\0\0\0\0no tensors")
    for name in ("broken.safetensors", "absent.safetensors"):
        with pytest.raises(ModelError, match=f"{name} cannot be read"):
            build_backbone("torchvision/mobilenet_v2", tmp_path / name, 2, seed=0)


def test_torchvision_weights_come_from_the_folder_of_torch_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    state = torchvision.models.squeezenet1_1().state_dict()
    _stand_in(torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1, state, tmp_path, monkeypatch)
    model, head = build_backbone("torchvision/squeezenet1_1", "IMAGENET1K_V1", 4, seed=0)
    assert head == "classifier.1"
    assert torch.equal(model.features[0].weight, state["features.0.weight"])
    assert model.classifier[1].weight.shape == (4, 512, 1, 1)


def test_old_names_in_densenet_files_are_translated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    state = torchvision.models.densenet121().state_dict()
    old = {name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value for name, value in state.items()}
    assert old.keys() != state.keys()
    _stand_in(torchvision.models.DenseNet121_Weights.IMAGENET1K_V1, old, tmp_path, monkeypatch)
    model, _ = build_backbone("torchvision/densenet121", "DEFAULT", 4, seed=0)
    name = "features.denseblock1.denselayer1.conv2.weight"
    assert torch.equal(model.get_parameter(name), state[name])


def test_checkpoints_that_hold_code_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(torchvision.models.AlexNet_Weights.IMAGENET1K_V1, nn.Linear(2, 2), tmp_path, monkeypatch)
    with pytest.raises(ModelError, match="UnpicklingError"):
        build_backbone("torchvision/alexnet", "IMAGENET1K_V1", 2, seed=0)


def test_downloads_that_fail_say_where_the_file_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.AlexNet_Weights.IMAGENET1K_V1
    monkeypatch.setattr(weights.value, "url", "file:///nowhere/alexnet-owt-7be5be79.pth")
    place = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    with pytest.raises(ModelError, match=f"could not be downloaded .* as {place} or set the weights to a .safetensors"):
        build_backbone("torchvision/alexnet", "DEFAULT", 2, seed=0)


def test_a_download_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    file = tmp_path / "alexnet-00000000.pth"
    torch.save({}, file)
    monkeypatch.setattr(torchvision.models.AlexNet_Weights.IMAGENET1K_V1.value, "url", file.as_uri())
    with pytest.raises(ModelError, match="invalid hash value"):
        build_backbone("torchvision/alexnet", "IMAGENET1K_V1", 2, seed=0)


@pytest.mark.parametrize("weights", ["pretrained", "a1_in1k"])
def test_timm_without_a_network(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ModelError, match=f"'{weights}' of timm/resnet18 could not be downloaded .* timm/resnet18.a1_in1k"
    ):
        build_backbone("timm/resnet18", weights, 2, seed=0)


@pytest.mark.parametrize(
    ("backbone", "weights"),
    [
        ("timm/resnet18", "pretrained"),
        ("timm/gcvit_xxtiny", "pretrained"),
        ("torchvision/resnet18", "IMAGENET1K_V1"),
    ],
)
def test_without_a_network_there_is_one_sentence_at_once(
    backbone: str,
    weights: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing answers at the address of any host, as without a network."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for proxy in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    begun = time.monotonic()
    with pytest.raises(ModelError, match=rf"'{weights}' of {backbone} could not be downloaded .*\.$"):
        build_backbone(backbone, weights, 2, seed=0)
    assert time.monotonic() - begun < 8
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_timm_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    torch.manual_seed(4)
    stored = timm.create_model("resnet10t").state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(stored))
    model, head = build_backbone("timm/resnet10t", "pretrained", 1000, seed=0)
    assert torch.equal(model.get_parameter("layer1.0.conv1.weight"), stored["layer1.0.conv1.weight"])
    assert not torch.equal(model.get_submodule(head).weight, stored["fc.weight"])  # the head is new at any width


def test_timm_weights_that_were_tampered_with_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client trusts the files in its cache, which are named after their SHA-256."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder, commit = tmp_path / "models--timm--resnet10t.c3_in1k", 40 * "a"
    for name in ("blobs", "refs", f"snapshots/{commit}"):
        (folder / name).mkdir(parents=True)
    torch.manual_seed(4)
    stored = timm.create_model("resnet10t").state_dict()
    save_file(stored, tmp_path / "weights")
    digest = hashlib.sha256((tmp_path / "weights").read_bytes()).hexdigest()
    blob = (tmp_path / "weights").rename(folder / "blobs" / digest)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit / "model.safetensors").symlink_to(blob)
    model, _ = build_backbone("timm/resnet10t", "c3_in1k", 2, seed=0)
    assert torch.equal(model.get_parameter("layer1.0.conv1.weight"), stored["layer1.0.conv1.weight"])
    save_file({name: tensor + 1 for name, tensor in stored.items()}, blob)
    with pytest.raises(ModelError, match=rf"{digest} does not match its name: .* not {digest[:8]}; delete it"):
        build_backbone("timm/resnet10t", "c3_in1k", 2, seed=0)


def test_timm_weights_of_torch_hub_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "gcvit_xxtiny_224_nvidia-d1d86009.pth"
    file.parent.mkdir(parents=True)
    torch.save(timm.create_model("gcvit_xxtiny").state_dict(), file)
    with pytest.raises(ModelError, match=r"its SHA-256 begins with \w{8}, not d1d86009; delete it"):
        build_backbone("timm/gcvit_xxtiny", "pretrained", 2, seed=0)


@pytest.mark.parametrize(
    ("backbone", "weights", "message"),
    [
        ("torchvision/alexnt", "random", "did you mean torchvision/alexnet"),
        ("alexnet", "random", "did you mean torchvision/alexnet"),
        ("timm/resnet_50", "random", "timm/resnet50"),
        ("torchvision/raft_large", "random", "there is no backbone"),
        ("xyzzy", "random", "write it as torchvision/alexnet or timm/resnet50"),
        ("torchvision/alexnet", "V1", "has no weights 'V1'; use IMAGENET1K_V1, DEFAULT, random or a .safetensors file"),
        ("timm/resnet18", "V1", "has no weights 'V1'; use pretrained, a1_in1k, .*random or a .safetensors file"),
        ("timm/levit_128", "random", "more than one head"),
    ],
)
def test_names_that_do_not_exist(backbone: str, weights: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_backbone(backbone, weights, 2, seed=0)


@pytest.mark.parametrize(
    ("backbone", "weights", "expected"),
    [
        ("torchvision/alexnet", "IMAGENET1K_V1", Preprocessing(224, "crop", "bilinear", 224 / 256, *IMAGENET)),
        ("torchvision/resnet50", "IMAGENET1K_V2", Preprocessing(224, "crop", "bilinear", 224 / 232, *IMAGENET)),
        ("torchvision/inception_v3", "DEFAULT", Preprocessing(299, "crop", "bilinear", 299 / 342, *IMAGENET)),
        ("torchvision/inception_v3", "random", Preprocessing(224, "crop", "bilinear", 0.875, *IMAGENET)),
        ("torchvision/alexnet", "any.safetensors", Preprocessing(224, "crop", "bilinear", 0.875, *IMAGENET)),
        ("timm/resnet50", "a1_in1k", Preprocessing(224, "crop", "bicubic", 0.95, *IMAGENET)),
        ("timm/vit_base_patch16_384", "random", Preprocessing(384, "crop", "bicubic", 1.0, (0.5,) * 3, (0.5,) * 3)),
    ],
)
def test_preprocessing(backbone: str, weights: str, expected: Preprocessing) -> None:
    assert default_preprocessing(backbone, weights) == expected


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1"])
def test_preprocessing_resizes_to_what_the_library_says(weights: str) -> None:
    for name in torchvision.models.list_models(module=torchvision.models):
        known = torchvision.models.get_model_weights(name)
        if weights in known.__members__:
            found = default_preprocessing(f"torchvision/{name}", weights)
            assert int(found.size / found.crop + 1e-6) == known[weights].transforms().resize_size[0]


def _stand_in(
    weights: torchvision.models.WeightsEnum, content: object, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put a file in torch.hub's folder, named after its hash, in the place of a set of weights."""
    place = folder / "hub" / "checkpoints"
    place.mkdir(parents=True)
    torch.save(content, place / "new.pth")
    digest = hashlib.sha256((place / "new.pth").read_bytes()).hexdigest()[:8]
    (place / "new.pth").rename(place / f"model-{digest}.pth")
    monkeypatch.setenv("TORCH_HOME", str(folder))
    monkeypatch.setattr(weights.value, "url", f"https://example.invalid/model-{digest}.pth")


@pytest.mark.parametrize(
    "backbone", ["torchvision/vit_b_32", "timm/vit_tiny_patch16_224", "timm/swin_tiny_patch4_window7_224"]
)
def test_a_size_that_a_backbone_does_not_take_is_refused(backbone: str) -> None:
    with pytest.raises(
        ModelError, match=f"{backbone} cannot take images of 96 px .*; leave out images.size or set it to 224"
    ):
        check_size(backbone, 96)
    check_size(backbone, 224)


@pytest.mark.parametrize("backbone", ["torchvision/mobilenet_v2", "timm/convnext_atto", "torchvision/swin_t"])
def test_a_size_that_a_backbone_takes_is_not_refused(backbone: str) -> None:
    check_size(backbone, 96)


@pytest.mark.parametrize("backbone", ["torchvision/resnet18", "torchvision/swin_t", "timm/convnext_atto"])
def test_a_rectangle_that_a_backbone_takes_is_not_refused(backbone: str) -> None:
    check_size(backbone, (96, 128))


@pytest.mark.parametrize(
    "backbone", ["torchvision/vit_b_32", "timm/vit_tiny_patch16_224", "timm/swin_tiny_patch4_window7_224"]
)
def test_a_rectangle_that_a_backbone_does_not_take_is_refused(backbone: str) -> None:
    with pytest.raises(ModelError, match=r"images of 192 x 224 px \(height x width\) .* or set it to 224"):
        check_size(backbone, (192, 224))


def test_weights_for_another_size_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torchvision.models.vit_b_32(image_size=384).state_dict()
    monkeypatch.setattr("thaw.nets.backbones._download", lambda *_: state)
    with pytest.raises(ModelError, match="do not fit torchvision/vit_b_32 as built for 224 px"):
        build_backbone("torchvision/vit_b_32", "IMAGENET1K_V1", 2, seed=0)
