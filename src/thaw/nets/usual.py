"""The pretrained weights that a network is usually taken with, where nobody names others."""

KNOWN = {
    "torchvision/mobilenet_v2": "thaw:mobilenet_v2",
    "torchvision/resnet18": "IMAGENET1K_V1",
    "torchvision/resnet50": "IMAGENET1K_V2",
    "torchvision/efficientnet_b0": "IMAGENET1K_V1",
    "torchvision/convnext_tiny": "IMAGENET1K_V1",
    "torchvision/swin_t": "IMAGENET1K_V1",
    "timm/convnext_atto": "pretrained",
    "timm/vit_small_patch16_224": "pretrained",
}
"""Networks that are worth a try, which `thaw scout` tries unasked, and their weights."""


def usual_weights(backbone: str) -> str:
    """Return the weights of a network, as `model.weights` writes them: those of `KNOWN`, or its library's default."""
    return KNOWN.get(backbone, "pretrained" if backbone.startswith("timm/") else "DEFAULT")
