"""Low-rank adapters: the same function at the start, merged without a difference, thin matrices alone trained."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from thaw.errors import ModelError
from thaw.nets.adapters import LoRALinear, add_adapters, merge_adapters
from thaw.nets.freezing import freeze


@pytest.fixture
def transformer() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=2, depth=2, img_size=32).eval()


def test_adapters_change_nothing_at_first_and_are_merged_exactly(transformer: nn.Module) -> None:
    images = torch.rand(2, 3, 32, 32)
    plain = {name: value.clone() for name, value in transformer.state_dict().items()}
    with torch.inference_mode():
        before = transformer(images)
        add_adapters(transformer, "head", 4, seed=0)
        assert torch.equal(transformer(images), before)
        for module in transformer.modules():
            if isinstance(module, LoRALinear):
                nn.init.normal_(module.up.weight, std=0.02)
        adapted = transformer(images)
        merge_adapters(transformer)
        merged = transformer(images)
    assert not torch.allclose(adapted, before)
    torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-5)
    assert transformer.state_dict().keys() == plain.keys()


def test_only_thin_matrices_and_the_head_train(transformer: nn.Module) -> None:
    add_adapters(transformer, "head", 4, seed=0)
    freeze(transformer, "head", "lora")
    trained = {name: p for name, p in transformer.named_parameters() if p.requires_grad}
    assert len(trained) == 2 + 2 * 4 * 2
    # qkv, proj, fc1 and fc2 of two blocks at width 192 and rank 4
    assert sum(p.numel() for name, p in trained.items() if "head" not in name) == 2 * 4 * (
        (192 + 576) + (192 + 192) + 2 * (192 + 768)
    )


def test_attention_that_reads_a_weight_without_calling_its_layer_is_adapted_too() -> None:
    torch.manual_seed(0)
    attention = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 2))
    add_adapters(attention, "1", 2, seed=0)
    freeze(attention, "1", "lora")
    attention(torch.rand(2, 3, 8)).sum().backward()
    gradients = {name: p.grad for name, p in attention.named_parameters() if p.requires_grad}
    assert "0.self_attn.out_proj.up.weight" in gradients
    assert all(gradient is not None for gradient in gradients.values())


def test_a_network_without_linear_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="has none; use 'last-stage'"):
        add_adapters(torchvision.models.resnet18(), "fc", 4, seed=0)
