"""LeNet-5 and ResNet-18 and -50, and what makes any model that fits the data.

`perceptron.py` has a model for tables, `transformer.py` one for texts. A checkpoint stores the name
and the arguments of what makes its model, so `rebuild` makes the same one anywhere.

Shapes: B = batch, C = channels, H, W = height and width, F = features, K = classes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.perceptron import MLP
from training.tables import TableSplit, known_categories

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.config import ModelConfig
    from training.splits import DataSet


class ModelSpec(TypedDict):
    """How to make a model, without its weights: `training.models:lenet5` and its arguments."""

    factory: str
    kwargs: dict[str, Any]


def model_spec(config: ModelConfig, data: DataSet) -> ModelSpec:
    """The model that fits the data."""
    kwargs: dict[str, Any] = {"num_classes": len(data.classes)}
    if config.name == "transformer":
        return {
            "factory": "training.transformer:TransformerTextClassifier",
            "kwargs": kwargs | _transformer_arguments(config, data),
        }
    if config.name == "mlp":
        kwargs |= {"num_features": data.input_shape[0], "hidden": list(config.hidden)}
        kwargs |= {"dropout": config.dropout}
        if num_categories := known_categories(data):
            kwargs |= {"num_categories": list(num_categories)}
    else:
        kwargs |= {"in_channels": data.input_shape[0]}
    if config.name in {"resnet18", "resnet50"}:
        kwargs |= {"small_images": config.small_images}
    return {"factory": f"training.models:{config.name}", "kwargs": kwargs}


def _transformer_arguments(config: ModelConfig, data: DataSet) -> dict[str, Any]:
    assert data.tokenizer is not None  # TrainConfig gives it texts only
    return {
        "vocab_size": len(data.tokenizer.tokens),
        "max_tokens": data.tokenizer.max_tokens,
        "width": config.width,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "dropout": config.dropout,
    }


def rebuild(spec: ModelSpec) -> nn.Module:
    """Make the model a specification describes, with fresh weights."""
    module, _, function = spec["factory"].partition(":")
    return cast("nn.Module", getattr(importlib.import_module(module), function)(**spec["kwargs"]))


def fit_statistics(model: nn.Module, data: DataSet) -> None:
    """Give a model for tables the mean and the spread of the training rows' numbers."""
    if isinstance(model, MLP) and isinstance(data.train, TableSplit):
        features_NF = data.train.features_NF
        model.mean_F.copy_(features_NF.mean(dim=0))
        model.std_F.copy_(features_NF.std(dim=0).clamp(min=1e-6))  # a constant column stays finite
        is_category_F = torch.tensor(known_categories(data)) > 0
        if len(is_category_F):
            model.mean_F[is_category_F] = 0
            model.std_F[is_category_F] = 1


class LeNet5(nn.Module):
    """LeCun et al. 1998, with ReLU and max pooling; 61,706 parameters for 10 classes, 1 channel."""

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size=5)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify.

        Args:
            x: float32, (B, C, 32, 32).

        Returns:
            float32 logits, (B, K).
        """
        x_BCHW = F.max_pool2d(F.relu(self.conv1(x)), 2)  # (B, 6, 14, 14)
        x_BCHW = F.max_pool2d(F.relu(self.conv2(x_BCHW)), 2)  # (B, 16, 5, 5)
        x_BF = F.relu(self.fc1(x_BCHW.flatten(1)))
        x_BF = F.relu(self.fc2(x_BF))
        logits_BK: Tensor = self.fc3(x_BF)
        return logits_BK


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Attributes:
        expansion: Channels that come out, in units of `width`.
    """

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, width, kernel_size=3, stride=stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, kernel_size=3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride=stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shortcut_BCHW = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        x_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)))
        x_BCHW = self.bn2(self.conv2(x_BCHW))
        return F.relu(x_BCHW + shortcut_BCHW)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, beside a shortcut; the 3x3 one has the stride.

    Attributes:
        expansion: Channels that come out, in units of `width`.
    """

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = _convolution(in_channels, width, kernel_size=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, kernel_size=3, stride=stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _convolution(width, out_channels, kernel_size=1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride=stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shortcut_BCHW = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        x_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)))
        x_BCHW = F.relu(self.bn2(self.conv2(x_BCHW)))
        x_BCHW = self.bn3(self.conv3(x_BCHW))
        return F.relu(x_BCHW + shortcut_BCHW)


class ResNet(nn.Module):
    """He et al. 2016; parameters named and shaped as torchvision's, whose weights load."""

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        num_blocks: Sequence[int],
        *,
        num_classes: int,
        in_channels: int,
        small_images: bool,
    ) -> None:
        super().__init__()
        kernel_size, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = _convolution(in_channels, 64, kernel_size=kernel_size, stride=stride)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.Identity() if small_images else nn.MaxPool2d(3, stride=2, padding=1)
        stages: list[nn.Module] = []
        channels = 64
        for place, num in enumerate(num_blocks):
            width = 64 << place
            strides = [1 if place == 0 else 2] + [1] * (num - 1)
            blocks: list[nn.Module] = []
            for stride in strides:
                blocks.append(block(channels, width, stride=stride))
                channels = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # section 3.4 of the paper, by way of He et al. 2015
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Classify.

        Args:
            x: float32, (B, C, H, W); H and W of 32 or more.

        Returns:
            float32 logits, (B, K).
        """
        x_BCHW = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x_BCHW = self.layer4(self.layer3(self.layer2(self.layer1(x_BCHW))))
        logits_BK: Tensor = self.fc(x_BCHW.mean(dim=(2, 3)))
        return logits_BK


def lenet5(*, num_classes: int, in_channels: int = 1) -> LeNet5:
    return LeNet5(num_classes=num_classes, in_channels=in_channels)


def resnet18(*, num_classes: int, in_channels: int = 3, small_images: bool = False) -> ResNet:
    """ResNet-18.

    Args:
        num_classes: 1000 for ImageNet.
        in_channels: 1 for grey, 3 for colour.
        small_images: Start with a 3x3 convolution of stride 1 and no pooling, as is usual for
            32x32 images; torchvision's weights then do not fit the first layer.
    """
    return ResNet(
        BasicBlock,
        (2, 2, 2, 2),
        num_classes=num_classes,
        in_channels=in_channels,
        small_images=small_images,
    )


def resnet50(*, num_classes: int, in_channels: int = 3, small_images: bool = False) -> ResNet:
    """ResNet-50; arguments as for `resnet18`."""
    return ResNet(
        Bottleneck,
        (3, 4, 6, 3),
        num_classes=num_classes,
        in_channels=in_channels,
        small_images=small_images,
    )


def mlp(
    *,
    num_features: int,
    num_classes: int,
    hidden: Sequence[int] = (64, 32),
    dropout: float = 0.0,
    num_categories: Sequence[int] = (),
) -> MLP:
    """A perceptron.

    Args:
        num_features: Columns.
        num_classes: K.
        hidden: Widths of the hidden layers.
        dropout: The part of the hidden units left out in each training step.
        num_categories: Of each column, 0 where it has numbers; empty if all have.
    """
    return MLP(
        num_features=num_features,
        num_classes=num_classes,
        hidden=hidden,
        dropout=dropout,
        num_categories=num_categories,
    )


def _convolution(
    in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1
) -> nn.Conv2d:
    """One that keeps the size, but for its stride; batch norm follows, which has the bias."""
    return nn.Conv2d(
        in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False
    )


def _shortcut(in_channels: int, out_channels: int, *, stride: int) -> nn.Module | None:
    """What a block adds its input through; None where that is of the right shape."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        _convolution(in_channels, out_channels, kernel_size=1, stride=stride),
        nn.BatchNorm2d(out_channels),
    )
