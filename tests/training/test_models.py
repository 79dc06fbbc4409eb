from __future__ import annotations

import pytest
import torch

from training.config import DataConfig, ImageConfig, ModelConfig
from training.data import TableSplit, load_data
from training.models import fit_statistics, lenet5, mlp, model_spec, rebuild, resnet18, resnet50


def num_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_resnets_have_the_published_numbers_of_parameters() -> None:
    assert num_parameters(resnet18(num_classes=1000)) == 11_689_512
    assert num_parameters(resnet50(num_classes=1000)) == 25_557_032


def test_resnet50_names_its_weights_as_torchvision_does() -> None:
    shapes = {name: tuple(p.shape) for name, p in resnet50(num_classes=7).named_parameters()}
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer3.5.conv3.weight"] == (1024, 256, 1, 1)
    assert shapes["layer4.0.conv1.weight"] == (512, 1024, 1, 1)
    assert shapes["layer4.2.bn3.bias"] == (2048,)
    assert shapes["fc.weight"] == (7, 2048)


def test_resnet18_names_and_shapes_its_weights_as_torchvision_does() -> None:
    expected: dict[str, tuple[int, ...]] = {
        "conv1.weight": (64, 3, 7, 7),
        "fc.weight": (1000, 512),
        "fc.bias": (1000,),
    }
    norms = {"bn1": 64}
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        previous = 64 if stage == 1 else width // 2
        for block in (0, 1):
            prefix = f"layer{stage}.{block}"
            inputs = previous if block == 0 else width
            expected[f"{prefix}.conv1.weight"] = (width, inputs, 3, 3)
            expected[f"{prefix}.conv2.weight"] = (width, width, 3, 3)
            norms |= {f"{prefix}.bn1": width, f"{prefix}.bn2": width}
        if stage > 1:
            expected[f"layer{stage}.0.downsample.0.weight"] = (width, previous, 1, 1)
            norms[f"layer{stage}.0.downsample.1"] = width
    for name, width in norms.items():
        expected |= {f"{name}.{key}": (width,) for key in ("weight", "bias")}
        expected |= {f"{name}.{key}": (width,) for key in ("running_mean", "running_var")}
        expected[f"{name}.num_batches_tracked"] = ()
    shapes = {
        name: tuple(value.shape) for name, value in resnet18(num_classes=1000).state_dict().items()
    }
    assert shapes == expected


@pytest.mark.slow
@pytest.mark.parametrize("small_images", [False, True])
def test_resnet18_takes_grey_images_of_32_pixels(small_images: bool) -> None:  # noqa: FBT001  # a case
    model = resnet18(num_classes=10, in_channels=1, small_images=small_images).eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


def test_lenet5_has_the_published_number_of_parameters() -> None:
    model = lenet5(num_classes=10)
    assert num_parameters(model) == 61_706
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


def test_mlp_standardises_raw_features_by_the_training_rows() -> None:
    data = load_data(DataConfig(name="tabular", table="wine"), image=ImageConfig())
    assert isinstance(data.train, TableSplit)
    model = mlp(num_features=13, num_classes=3, hidden=[8]).eval()
    fit_statistics(model, data)
    raw = data.train.features_NF
    standard = (raw - raw.mean(dim=0)) / raw.std(dim=0)
    torch.testing.assert_close(model(raw), model.layers(standard))
    assert {"mean_F", "std_F"} <= model.state_dict().keys()


@pytest.mark.parametrize(
    ("data", "model"),
    [
        (DataConfig(), ModelConfig(name="lenet5")),
        (DataConfig(), ModelConfig(name="resnet18", small_images=True)),
        (DataConfig(name="tabular"), ModelConfig(name="mlp", hidden=(4, 5), dropout=0.5)),
    ],
    ids=lambda config: config.name,
)
def test_a_specification_rebuilds_a_model_that_fits_the_data(
    data: DataConfig, model: ModelConfig
) -> None:
    loaded = load_data(data, image=ImageConfig())
    rebuilt = rebuild(model_spec(model, loaded)).eval()
    assert rebuilt(loaded.val[0][0][None]).shape == (1, len(loaded.classes))
