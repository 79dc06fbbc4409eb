"""What can be set about a training run: defaults, then a TOML file, then `key=value` overrides.

Every section is a frozen dataclass, checked when it is built, wherever it is built from. The range
of a number stands in its type, so the check, the message and this page cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, cast

from flambeau.errors import ConfigError
from training.settings import Range, build, check, flatten, parse_override, plain, read_toml

Count: TypeAlias = Annotated[int, Range(1)]
Fraction: TypeAlias = Annotated[float, Range(0, 1)]

_MOST_HELD_OUT = 0.95
_FITTING_MODELS = {
    "images": ("lenet5", "resnet18", "resnet50"),
    "tables": ("mlp",),
    "texts": ("transformer",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What to learn from.

    Attributes:
        name: `digits` (scikit-learn's 1,797 scanned digits), `mnist` (IDX files under `root`),
            `image_folder` (one folder of images per class under `root`), `tabular` (scikit-learn's
            `table`, or the file `root`), `text` (one folder of `.txt` files per class under `root`,
            or the file `root`), or `code_lines` (4,800 lines in four languages, from installed
            packages).
        root: The directory or file to read. Files are CSV, TSV, JSON lines or Parquet, by suffix.
        download: Fetch `mnist` into `root` with torchvision, which must be installed, if it is not
            there.
        table: Which of scikit-learn's bundled tables `tabular` is.
        label_column: The column of a file that names the classes; the last one if not set.
        text_column: The column of a file that has the texts.
        categories: Columns of a table that look like numbers, and are names of something.
        val_fraction: The part of every class held out for validation; `mnist` brings its own, as
            does a folder with `train` and `val` in it.
        test_fraction: The part of every class kept for the test of the best model, 0 for none; a
            folder may bring its own as `test`, and any part above 0 is MNIST's 10,000.
        split_seed: Which samples are held out. Apart from `seed`, so that runs can be compared.
        num_workers: Processes that decode samples; 0 decodes in the training process.
        max_shift: Training images move by up to this part of their side, in both directions.
        max_rotation_deg: Training images turn by up to this angle, either way.
        class_weights: `balanced` weighs samples so that each class counts alike in the loss.
    """

    section: ClassVar[str] = "data."

    name: Literal["digits", "mnist", "image_folder", "tabular", "text", "code_lines"] = "digits"
    root: Path | None = None
    download: bool = False
    table: Literal["breast_cancer", "wine", "iris"] = "breast_cancer"
    label_column: str | None = None
    text_column: str = "text"
    categories: tuple[str, ...] | None = None
    val_fraction: Annotated[float, Range(0.01, 0.9)] = 0.2
    test_fraction: Annotated[float, Range(0, 0.9)] = 0.0
    split_seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    num_workers: Annotated[int, Range(0)] = 0
    max_shift: Annotated[float, Range(0, 0.5)] = 0.0
    max_rotation_deg: Annotated[float, Range(0, 180)] = 0.0
    class_weights: Literal["none", "balanced"] = "none"

    def __post_init__(self) -> None:
        check(self)
        if self.name in {"mnist", "image_folder", "text"} and self.root is None:
            raise ConfigError(
                f"data.root is not set; data.name={self.name} reads files from there: "
                "data.root=DIRECTORY"
            )
        if self.val_fraction + self.test_fraction > _MOST_HELD_OUT:
            raise ConfigError(
                f"data.val_fraction is {self.val_fraction} and data.test_fraction "
                f"{self.test_fraction}; together use {_MOST_HELD_OUT} or less, to train on the rest"
            )
        if self.download and self.name != "mnist":
            raise ConfigError(
                f"data.download fetches MNIST; data.name={self.name} has nothing to fetch"
            )
        if self.kind != "images" and (self.max_shift > 0 or self.max_rotation_deg > 0):
            raise ConfigError(
                f"data.max_shift and data.max_rotation_deg move images; data.name={self.name} has "
                "none"
            )

    @property
    def kind(self) -> Literal["images", "tables", "texts"]:
        if self.name in {"text", "code_lines"}:
            return "texts"
        return "tables" if self.name == "tabular" else "images"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageConfig:
    """From an image to a tensor, in training and in serving alike; other data ignores it.

    Attributes:
        mode: `L` is one grey channel, `RGB` three.
        resize: Pixels of the shorter edge after resizing.
        size: Pixels of both edges after the centre crop.
        mean: Subtracted per channel, after scaling to 0..1.
        std: Divided by per channel, after the mean.
    """

    section: ClassVar[str] = "image."

    mode: Literal["L", "RGB"] = "L"
    resize: Count = 32
    size: Count = 32
    mean: tuple[Fraction, ...] = (0.5,)
    std: tuple[Annotated[float, Range(0, exclusive=True)], ...] = (0.5,)

    def __post_init__(self) -> None:
        check(self)
        if self.size > self.resize:
            raise ConfigError(
                f"image.size is {self.size}, larger than image.resize, {self.resize}; "
                "the crop has to fit into the resized image"
            )
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.num_channels:
                raise ConfigError(
                    f"image.{key} has {len(values)} values; image.mode={self.mode} needs "
                    f"{self.num_channels}"
                )

    @property
    def num_channels(self) -> int:
        return 1 if self.mode == "L" else 3


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """From a text to tokens, in training and in serving alike; data without texts ignores it.

    Attributes:
        tokenizer: Tokens are `characters`, or what `bpe`, byte-pair encoding, merges them into.
        vocab_size: The most different tokens, padding and unknown included.
        max_tokens: How many tokens of a text count, from its start. Attention's cost grows with
            its square.
    """

    section: ClassVar[str] = "text."

    tokenizer: Literal["characters", "bpe"] = "bpe"
    vocab_size: Annotated[int, Range(3, 1_000_000)] = 1000
    max_tokens: Annotated[int, Range(1, 8192)] = 128

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """What learns.

    Attributes:
        name: `lenet5`, `resnet18` and `resnet50` read images, `mlp` reads tables, `transformer`
            reads texts.
        small_images: A ResNet keeps the resolution in its first layers, for edges up to 64.
        hidden: Widths of the hidden layers of `mlp`.
        width: Numbers per token in a `transformer`, a multiple of `num_heads`.
        num_layers: Of a `transformer`.
        num_heads: Of each of its layers.
        dropout: The part of the hidden units of `mlp` and `transformer` left out in each training
            step.
    """

    section: ClassVar[str] = "model."

    name: Literal["lenet5", "resnet18", "resnet50", "mlp", "transformer"] = "lenet5"
    small_images: bool = False
    hidden: tuple[Count, ...] = (64, 32)
    width: Count = 64
    num_layers: Count = 2
    num_heads: Count = 4
    dropout: Annotated[float, Range(0, 0.95)] = 0.0

    def __post_init__(self) -> None:
        check(self)
        if self.width % self.num_heads:
            raise ConfigError(
                f"model.width is {self.width}; use a multiple of model.num_heads, {self.num_heads}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """How the weights move.

    Attributes:
        lr: The highest learning rate; the schedule scales it.
        momentum: For `sgd`.
        clip_norm: Gradients whose norm over all parameters is larger are scaled down to it; 0
            leaves them as they are.
        ema_decay: Validation, checkpoints and exports use weights averaged over steps, of which
            each keeps this part of the average before it; 0 uses the last step's.
    """

    section: ClassVar[str] = "optimizer."

    name: Literal["sgd", "adamw"] = "adamw"
    lr: Annotated[float, Range(0, exclusive=True)] = 2e-3
    weight_decay: Annotated[float, Range(0)] = 0.05
    momentum: Annotated[float, Range(0, 0.999)] = 0.9
    clip_norm: Annotated[float, Range(0)] = 0.0
    ema_decay: Annotated[float, Range(0, 0.99999)] = 0.0

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """How the learning rate changes, step by step.

    Attributes:
        name: `cosine` and `linear` fall to 0 at the last step, `none` stays.
        warmup_epochs: The rate first rises in a straight line for this long.
    """

    section: ClassVar[str] = "schedule."

    name: Literal["cosine", "linear", "none"] = "cosine"
    warmup_epochs: Annotated[float, Range(0)] = 1.0

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run. The defaults train LeNet-5 on `digits`, without moving its images.

    Attributes:
        output: The run directory: checkpoints, `metrics.csv` and TensorBoard's files.
        resume: `never`; `auto` to continue after the newest good checkpoint in `output`, if any;
            or the path of a checkpoint.
        seed: Decides initial weights, order, augmentation and dropout.
        epochs: How often every training sample is seen.
        patience: Stop after this many epochs in a row that were not the best; 0 trains all.
        batch_size: Samples per batch on each device.
        accumulate: Batches per step on each device; the gradient is their mean.
        device: `auto` takes a GPU where there is one.
        precision: Lightning Fabric's names; `bf16-mixed` is faster on GPUs since Ampere, `16-mixed`
            (with scaled losses) on those before, and not for CPUs.
        strategy: How the model is spread over processes: `single` needs one, `ddp` keeps it whole
            on each, `fsdp` leaves each a share of every weight and of what the optimizer knows of
            it; `deepspeed` does so on GPUs; `auto` is `single` or `ddp`.
        zero_stage: What `deepspeed` shares out: 1 the optimizer's state, 2 gradients as well, 3
            weights as well.
        compile: Whether torch.compile fuses the model's kernels, which takes a minute at first.
        num_threads: CPU threads per process; 0 takes one per core. On a busy machine many are slow.
            The bits of a result depend on it.
        keep: How many of the last checkpoints stay; the best stays anyway.
        async_save: Whether the next epoch trains while a checkpoint is written. A crash then may
            lose the last epoch that was finished, and no other.
        log_every_steps: How often the loss is read back from the device, checked and logged.
        log_gradients: Whether the norm of each parameter's gradient goes to TensorBoard, too.
        profile_steps: So many steps, after the first two of the run, are traced to `trace.json`.
    """

    section: ClassVar[str] = ""

    output: Path = Path("runs/digits_lenet")
    resume: str = "never"
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    epochs: Count = 20
    patience: Annotated[int, Range(0)] = 0
    batch_size: Count = 32
    accumulate: Count = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    strategy: Literal["auto", "single", "ddp", "fsdp", "deepspeed"] = "auto"
    zero_stage: Annotated[int, Range(1, 3)] = 2
    compile: bool = False
    num_threads: Annotated[int, Range(0)] = 0
    keep: Count = 3
    async_save: bool = False
    log_every_steps: Count = 20
    log_gradients: bool = False
    profile_steps: Annotated[int, Range(0)] = 0
    data: DataConfig = field(default_factory=DataConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    text: TextConfig = field(default_factory=TextConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        check(self)
        fitting = _FITTING_MODELS[self.data.kind]
        if self.model.name not in fitting:
            raise ConfigError(
                f"model.name is {self.model.name}, which cannot read data.name={self.data.name}; "
                f"use {' or '.join(fitting)}"
            )
        if self.model.name == "lenet5" and self.image.size != 32:
            raise ConfigError(f"image.size is {self.image.size}; model.name=lenet5 needs 32")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object]) -> TrainConfig:
        """Build from nested plain data, such as `to_mapping` gives.

        Raises:
            ConfigError: A key is unknown or a value does not fit; the message names both.
        """
        return build(cls, flatten(mapping))

    def to_mapping(self) -> dict[str, Any]:
        """Nested dicts, lists, strings and numbers: what a checkpoint stores."""
        return cast("dict[str, Any]", plain(asdict(self)))


def read_config(path: Path | None, *, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration from a TOML file, then `key=value` overrides, later ones winning.

    Args:
        path: The file; None starts from the defaults.
        overrides: `epochs=10`, `optimizer.lr=0.01`, `image.mean=[0.5]`. Values are TOML, except
            that text needs no quotes.

    Raises:
        ConfigError: The file cannot be read, a key is unknown, or a value does not fit.
    """
    values = {} if path is None else flatten(read_toml(path))
    for override in overrides:
        key, value = parse_override(TrainConfig, override)
        values[key] = value
    return build(TrainConfig, values)
