"""Every kind of backbone: the two parts give the whole's outputs, gradients and statistics, bit for bit."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from thaw.nets.freezing import freeze, set_mode
from thaw.nets.prefix.split import split

# name: side of the images; with "!" the network is built for that size
FAST = """
    torchvision/alexnet 64        torchvision/efficientnet_b0 32    torchvision/mobilenet_v2 32
    torchvision/resnet18 32       torchvision/squeezenet1_1 64      torchvision/swin_t 32
    timm/convnext_atto 32         timm/deit_tiny_patch16_224 64!    timm/mobilenetv4_conv_small 32
    timm/mobilevit_xxs 64         timm/resnet18 32                  timm/tf_efficientnet_lite0 32
    timm/tiny_vit_5m_224 64       timm/vit_small_patch14_reg4_dinov2 56!
"""
SLOW = """
    torchvision/densenet121 32    torchvision/vit_b_32 64!          timm/eva02_tiny_patch14_224 56!
    torchvision/convnext_tiny 64  torchvision/efficientnet_v2_s 32  torchvision/googlenet 64
    torchvision/inception_v3 96   torchvision/maxvit_t 224          torchvision/mnasnet0_5 64
    torchvision/mobilenet_v3_small 64                               torchvision/regnet_y_400mf 64
    torchvision/resnext50_32x4d 64                                  torchvision/shufflenet_v2_x0_5 64
    torchvision/swin_v2_t 64      torchvision/vgg11 64              torchvision/vgg11_bn 64
    timm/beit_base_patch16_224 64!                                  timm/caformer_s18 64
    timm/cait_xxs24_224 64!       timm/coat_tiny 64!                timm/coatnet_nano_rw_224 64!
    timm/convit_tiny 64!          timm/convnextv2_atto 64           timm/crossvit_9_240 96
    timm/davit_tiny 64            timm/dla34 64                     timm/dpn48b 64
    timm/edgenext_xx_small 64     timm/efficientvit_b0 64           timm/efficientvit_m0 64
    timm/ese_vovnet19b_dw 64      timm/fastvit_t8 64                timm/ghostnet_050 64
    timm/gmlp_ti16_224 64!        timm/hiera_tiny_224 64!           timm/hrnet_w18_small 64
    timm/mixer_s32_224 64!        timm/mobilenetv4_hybrid_medium 64
    timm/mobilevit_s 64           timm/mobilevitv2_050 64           timm/mvitv2_tiny 64
    timm/nfnet_l0 64              timm/poolformerv2_s12 64          timm/pvt_v2_b0 64
    timm/regnetx_002 64           timm/repvgg_a0 64                 timm/res2net50_14w_8s 64
    timm/resmlp_12_224 64!        timm/resnest14d 64                timm/resnetv2_50x1_bit 64
    timm/rexnet_100 64            timm/skresnet18 64                timm/swin_tiny_patch4_window7_224 112!
    timm/swinv2_tiny_window8_256 128!                               timm/twins_svt_small 64
    timm/visformer_tiny 64!       timm/vit_base_patch16_siglip_gap_224 64!
    timm/vit_relpos_small_patch16_224 64!                           timm/xception41 64
    timm/xcit_nano_12_p8_224 64
"""


def cases(text: str, *marks: pytest.MarkDecorator) -> list[object]:
    words = text.split()
    return [pytest.param(*pair, id=pair[0], marks=marks) for pair in zip(words[::2], words[1::2], strict=True)]


def build(backbone: str, size: str) -> nn.Module:
    """The library's own network, 5 classes, random weights."""
    library, name = backbone.split("/")
    side, fixed = int(size.rstrip("!")), size.endswith("!")
    torch.manual_seed(0)
    if library == "timm":
        return timm.create_model(name, num_classes=5, **({"img_size": side} if fixed else {}))
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, num_classes=5, **options, **({"image_size": side} if fixed else {}))


def last_modules(model: nn.Module, share: float) -> list[str]:
    """The last modules that own parameters, until they hold more than `share` of them."""
    owners = [(name, module) for name, module in model.named_modules() if name and list(module.parameters(False))]
    wanted = share * sum(parameter.numel() for parameter in model.parameters())
    names = []
    while wanted >= 0:
        name, module = owners.pop()
        names.append(name)
        wanted -= sum(parameter.numel() for parameter in module.parameters(False))
    return names


def step(network: nn.Module, *inputs: Tensor) -> Tensor:
    """Logits of a training step, with the gradients left in the parameters."""
    torch.manual_seed(1)
    logits = network(*inputs)
    logits.square().sum().backward()
    return logits.detach()


def equal(values: list[Tensor | None], expected: list[Tensor | None]) -> bool:
    pairs = zip(values, expected, strict=True)
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("backbone", "size"), [*cases(FAST), *cases(SLOW, pytest.mark.slow)])
def test_split_equals_the_whole_bit_for_bit(backbone: str, size: str) -> None:
    images = torch.randn(3, 3, *[int(size.rstrip("!"))] * 2, generator=torch.Generator().manual_seed(2))
    for share in (0.0, 0.15):  # the last layer; the last stage
        model = build(backbone, size)
        freeze(model, "", last_modules(model, share))
        whole = copy.deepcopy(model)
        set_mode(whole, "eval")
        set_mode(model, "eval")
        parts = split(model, images)
        assert parts.prefix is not None, parts.reason
        with torch.inference_mode():
            arrays = [tensor.numpy().copy() for tensor in parts.prefix(images)]
        kept = [torch.from_numpy(array) for array in arrays]  # as from a file
        before = [tensor.clone() for tensor in kept]

        assert torch.equal(step(parts.suffix, *kept), step(whole, images))
        assert equal([p.grad for p in model.parameters()], [p.grad for p in whole.parameters()])
        assert equal([*model.buffers()], [*whole.buffers()])
        with torch.no_grad():
            assert torch.equal(parts.evaluation(*kept), whole.eval()(images))
        assert equal(kept, before)
        assert [tuple(tensor.shape[1:]) for tensor in kept] == list(parts.shapes)
        assert 0 < parts.cut.macs < parts.total_macs
