"""The public weights of each network, by the name under which `create_model(weights=...)` takes them."""

from collections.abc import Mapping
from types import MappingProxyType


def timm(*names: str) -> tuple[str, ...]:
    """Return the hub ids of weights by timm's names, "architecture.tag" each."""
    return tuple(f"timm/{name}" for name in names)


PUBLIC_WEIGHTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "resnet18": timm("resnet18.a1_in1k", "resnet18.tv_in1k"),
        "resnet34": timm("resnet34.a1_in1k", "resnet34.tv_in1k"),
        "resnet50": timm("resnet50.a1_in1k", "resnet50.tv2_in1k", "resnet50.tv_in1k"),
        "resnet101": timm("resnet101.a1_in1k", "resnet101.tv2_in1k", "resnet101.tv_in1k"),
        "resnet152": timm("resnet152.a1_in1k", "resnet152.tv2_in1k", "resnet152.tv_in1k"),
        "resnext50_32x4d": timm("resnext50_32x4d.a1_in1k", "resnext50_32x4d.tv2_in1k", "resnext50_32x4d.tv_in1k"),
        "resnext101_32x4d": timm("resnext101_32x4d.gluon_in1k"),
        "vgg16_bn": timm("vgg16_bn.tv_in1k"),
        "inception_resnet_v2": timm("inception_resnet_v2.tf_in1k", "inception_resnet_v2.tf_ens_adv_in1k"),
        "mobilenet_v1": timm("mobilenetv1_100.ra4_e3600_r224_in1k"),
        "se_resnet18": timm("legacy_seresnet18.in1k"),
        "se_resnet34": timm("legacy_seresnet34.in1k"),
        "se_resnet50": timm("seresnet50.ra2_in1k", "seresnet50.a1_in1k", "legacy_seresnet50.in1k"),
        "se_resnet101": timm("legacy_seresnet101.in1k"),
        "se_resnet152": timm("legacy_seresnet152.in1k"),
        "se_resnext50_32x4d": timm(
            "seresnext50_32x4d.racm_in1k", "seresnext50_32x4d.gluon_in1k", "legacy_seresnext50_32x4d.in1k"
        ),
        "se_resnext101_32x4d": timm("seresnext101_32x4d.gluon_in1k", "legacy_seresnext101_32x4d.in1k"),
        "senet154": timm("legacy_senet154.in1k", "senet154.gluon_in1k"),
        "cifar_se_resnet20": ("cifar10",),
    }
)
"""By the network's name, the best first: what `pretrained=True` loads.

These are names of `timm.list_pretrained()`, most of them on the hub; those that begin with "legacy_" are the authors'
files, converted, which timm keeps elsewhere. A name without a slash is a tag of the package.
"""
