"""Low-rank adapters: the same function at the start, merged without a difference, thin matrices alone trained."""

import copy
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from timm.layers import ScaledStdConv2d
from torch import nn

from helpers.cli import thaw
from helpers.records import FACTS
from helpers.studies import QUICK, break_off, metrics_of, study, timeless
from thaw.bundle.load import load
from thaw.errors import ModelError
from thaw.nets.adapters import LoRALayer, LoRAProjections, adapter_parameters, add_adapters, merge_adapters
from thaw.nets.backbones import build_backbone
from thaw.nets.freezing import freeze, set_mode
from thaw.nets.prefix.split import split
from thaw.run.metrics import _written
from thaw.training.network import copy_of
from thaw.training.prepare import count_parameters


def timms_transformer() -> tuple[nn.Module, str]:
    return timm.create_model("vit_tiny_patch16_224", num_classes=2, depth=2, img_size=32), "head"


def torchvisions_transformer() -> tuple[nn.Module, str]:
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    model = torchvision.models.VisionTransformer(image_size=32, patch_size=8, num_classes=2, **sizes)
    nn.init.normal_(model.heads.head.weight)
    return model, "heads.head"


def convolutions() -> tuple[nn.Module, str]:
    model = torchvision.models.mobilenet_v2(num_classes=2, width_mult=0.25, dropout=0.0)
    nn.init.normal_(model.classifier[1].weight, std=0.1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # statistics of the next batch, with which the values keep their size
    model(torch.rand(16, 3, 32, 32))
    return model, "classifier.1"


@pytest.fixture(params=[timms_transformer, torchvisions_transformer, convolutions])
def backbone(request: pytest.FixtureRequest) -> tuple[nn.Module, str]:
    torch.manual_seed(0)
    model, head = request.param()
    return model.eval(), head


def disturb(model: nn.Module) -> None:
    """Give the adapters an update, as training would."""
    for name, parameter in model.named_parameters():
        if name in adapter_parameters(model):
            nn.init.normal_(parameter, std=0.05)


def test_adapters_change_nothing_at_first_and_are_merged_exactly(backbone: tuple[nn.Module, str]) -> None:
    network, head = backbone
    images = torch.rand(2, 3, 32, 32)
    plain = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode():
        before = network(images)
    add_adapters(network, head, 4, seed=0)
    with torch.inference_mode():
        assert torch.equal(network(images), before)
    disturb(network)
    with torch.inference_mode():
        adapted = network(images)
        merge_adapters(network)
        merged = network(images)
    assert not torch.allclose(adapted, before, atol=1e-3)
    torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-4)
    assert network.state_dict().keys() == plain.keys()
    assert not adapter_parameters(network)
    fresh = copy.deepcopy(network)  # ordinary weights, of ordinary modules
    fresh.load_state_dict(network.state_dict())
    assert {type(module) for module in network.modules()}.isdisjoint({LoRALayer, LoRAProjections})


def test_only_thin_matrices_and_the_head_train() -> None:
    transformer, head = timms_transformer()
    add_adapters(transformer, head, 4, seed=0)
    freeze(transformer, head, "lora")
    trained = {name: p for name, p in transformer.named_parameters() if p.requires_grad}
    assert len(trained) == 2 + 2 * 4 * 2
    # qkv, proj, fc1 and fc2 of two blocks at width 192 and rank 4
    assert sum(p.numel() for name, p in trained.items() if "head" not in name) == 2 * 4 * (
        (192 + 576) + (192 + 192) + 2 * (192 + 768)
    )


def test_packed_projections_are_three_low_rank_updates() -> None:
    """Against three linear layers with an adapter each."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    plain = attention.in_proj_weight.detach().clone()
    add_adapters(network := nn.Sequential(attention, nn.Linear(8, 2)), "1", 2, seed=0)
    disturb(network)
    pairs = next(module for module in network.modules() if isinstance(module, LoRAProjections))
    tokens, packed = torch.rand(3, 5, 8), attention.in_proj_weight
    for projection, (rows, before) in enumerate(zip(packed.split(8), plain.split(8), strict=True)):
        layer = LoRALayer(nn.Linear(8, 8, bias=False), 2)
        values = (before, pairs.down[projection], pairs.up[projection])
        for own, value in zip((layer.base, layer.down, layer.up), values, strict=True):
            own.weight = nn.Parameter(value.detach().clone())
        torch.testing.assert_close(layer(tokens), tokens @ rows.T)
        assert torch.linalg.matrix_rank((rows - before).detach(), atol=1e-6) == 2


def test_every_adapter_learns_in_a_split_network(backbone: tuple[nn.Module, str]) -> None:
    network, head = backbone
    add_adapters(network, head, 2, seed=0)
    disturb(network)
    freeze(network, head, "lora")
    set_mode(network, "eval")
    images = torch.rand(4, 3, 32, 32)
    parts = split(network, images)
    assert parts.prefix is not None
    entering = parts.prefix(images)
    torch.testing.assert_close(parts.suffix(*entering), network(images), rtol=0, atol=1e-4)
    torch.testing.assert_close(parts.evaluation(*entering), copy.deepcopy(network).eval()(images), rtol=0, atol=1e-4)
    twin = copy_of(parts.suffix)
    for part in (parts.suffix, twin):
        nn.functional.cross_entropy(part(*entering), torch.tensor([0, 1, 0, 1])).backward()
    trained = [parameter for parameter in parts.suffix.parameters() if parameter.requires_grad]
    copied = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    assert len(trained) == len(adapter_parameters(network)) + 2
    for one, other in zip(trained, copied, strict=True):
        assert one.grad is not None
        assert one.grad.abs().sum() > 0
        assert one is not other
        assert torch.equal(one.grad, other.grad)


def test_attention_that_reads_a_weight_without_calling_its_layer_is_adapted_too() -> None:
    torch.manual_seed(0)
    attention = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 2))
    add_adapters(attention, "1", 2, seed=0)
    freeze(attention, "1", "lora")
    attention(torch.rand(2, 3, 8)).sum().backward()
    gradients = {name: p.grad for name, p in attention.named_parameters() if p.requires_grad}
    assert "0.self_attn.out_proj.up.weight" in gradients
    assert "0.self_attn.parametrizations.in_proj_weight.0.up" in gradients
    assert all(gradient is not None for gradient in gradients.values())


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.LSTM(8, 8), "the weights 'weight_ih_l0' of 0, a LSTM"),
        (nn.MultiheadAttention(8, 2, kdim=4), "the weights 'q_proj_weight' of 0, a MultiheadAttention"),
    ],
)
def test_packed_weights_that_cannot_be_adapted_are_refused(layer: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=f"train = 'lora' cannot adapt {message}; use 'last-stage'"):
        add_adapters(nn.Sequential(layer, nn.Linear(8, 8), nn.Linear(8, 2)), "2", 4, seed=0)


def test_a_network_of_which_adapters_would_reach_little_is_refused() -> None:
    with pytest.raises(ModelError, match=r"which hold 1\.5% of this backbone's weights before the head; use 'last-"):
        add_adapters(torchvision.models.resnet18(), "fc", 4, seed=0)
    with pytest.raises(ModelError, match=r"which hold 0\.0%"):
        add_adapters(nn.Sequential(ScaledStdConv2d(8, 8, 1), nn.Linear(8, 2)), "1", 4, seed=0)


@pytest.fixture
def small_vit(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's vit_b_16 is a network of four thin blocks and large patches."""

    def vit_b_16(*, weights: None, num_classes: int) -> nn.Module:
        sizes = {"num_layers": 4, "num_heads": 2, "hidden_dim": 64, "mlp_dim": 256}
        return torchvision.models.VisionTransformer(image_size=224, patch_size=32, num_classes=num_classes, **sizes)

    vit_b_16.__module__ = "torchvision.models.vision_transformer"
    monkeypatch.setitem(torchvision.models._api.BUILTIN_MODELS, "vit_b_16", vit_b_16)


@pytest.mark.slow
@pytest.mark.usefixtures("small_vit")
def test_a_study_with_packed_projections_is_cached_resumed_and_exported(
    class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = ("arms.head=", "arms.last-stage=", "arms.everything=", "arms.lora.train=lora")
    model = ("model.backbone=torchvision/vit_b_16", "model.weights=random", "images.size=224")
    settings = (*QUICK, *arms, *model, "train.refit=train", "train.epochs=4", "train.weight_decay=0.01")
    found = {}
    for activations in ("auto", "off"):
        run, both = tmp_path / activations, (*settings, f"cache.activations={activations}")
        assert study(monkeypatch, class_folder, "--out", run, settings=both) == 0
        found[activations] = metrics_of(run)["arms"]["lora"]
    assert found["auto"]["frontier"]["nodes"] != found["off"]["frontier"]["nodes"]
    for name in ("search", "epochs"):
        for one, other in zip(found["auto"][name], found["off"][name], strict=True):
            assert one == pytest.approx(other, abs=1e-5)

    run, epochs = tmp_path / "broken", break_off(monkeypatch, 3)
    assert study(monkeypatch, class_folder, "--out", run, settings=settings) == 130
    assert study(monkeypatch, class_folder, "--out", run, settings=settings) == 0
    assert len(epochs) == 3 + 4 - 2
    assert timeless(metrics_of(run)) == timeless(metrics_of(tmp_path / "auto"))

    weights = load_file(run / "models" / "lora" / "model.safetensors")
    start, head = build_backbone("torchvision/vit_b_16", "random", 2, seed=0)
    assert weights.keys() == start.state_dict().keys()
    for name, value in start.state_dict().items():
        trained = "weight" in name and name.startswith("encoder.layers") and ".ln" not in name
        assert torch.equal(weights[name], value) != (trained or name.startswith(head)), name
    table = pq.read_table(run / "predictions.parquet").to_pandas().set_index("id")
    classifier = load(run / "models" / "lora")
    files = [str(class_folder / name) for name in table.index]
    assert list(classifier.predict(files)) == list(table["predicted"])
    assert thaw(monkeypatch, "export", run / "models" / "lora", "--to", "onnx", "--check", class_folder) == 0


def test_adapters_cost_nothing_once_they_are_merged() -> None:
    """What is counted of an arm with adapters at inference is what their network has after merging."""
    model, head = torchvision.models.alexnet(num_classes=2), "classifier.6"
    written = sum(parameter.numel() for parameter in model.parameters())
    add_adapters(model, head, 4, seed=0)
    modules = freeze(model, head, "lora")
    network = FACTS.model_copy(update={"head": head, "modules": modules, "parameters": count_parameters(model)})
    assert network.parameters.total > written
    assert _written(network, "lora") == written
    assert _written(network, "all") == network.parameters.total
