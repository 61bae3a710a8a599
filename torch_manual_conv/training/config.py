"""Every option of a run: one dataclass that is the command line, the YAML file and the record in a checkpoint."""

import os
import reprlib
import types
import typing
from argparse import SUPPRESS, BooleanOptionalAction
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace

from .._command import Parser, RunError, did_you_mean, file_path


class ConfigError(RunError):
    """An option has a value that cannot work."""


def option(default, help, *, group, choices=None, within=None):
    """`within` is an interval, such as "(0, 1]": the values that can work."""
    return field(default=default, metadata={"help": help, "group": group, "choices": choices, "within": within})


COUNT = "[1, 1000000000]"
SHARE = "[0, 1)"
SEEDS = "[-9223372036854775808, 18446744073709551616)"  # what torch's generators take
RATE = "(0, 1e38]"  # float32 ends at 3.4e38
NOT_RECORDED = ("out", "resume", "eval_only", "compare")  # they say what to do now, not what the run is
PATHS = ("data", "out", "resume")
SMALLEST_IMAGE = {"lecture_net": 15, "alexnet": 63, "alexnet_2012": 63}  # smaller ones end before the last pool


@dataclass(frozen=True)
class TrainConfig:
    """A field that is None is chosen by `resolved()` from the data and the model."""

    data: str | None = option(
        None,
        "folder of images, train/<class>/* and val/<class>/* [the built-in 12,000 images of Fashion-MNIST]",
        group="data",
    )
    synthetic: bool = option(False, "drawn images instead of files: to try a set-up or measure speed", group="data")
    image_size: int | None = option(
        None, "pixels a side [28 for the built-in images, 224 for a folder]", group="data", within="[1, 4096]"
    )
    min_crop: float = option(
        0.25, "smallest share of a training photograph that a random crop keeps", group="data", within="(0, 1]"
    )
    max_pixels: int = option(
        64_000_000, "larger images are refused; JPEGs may have four times as many", group="data", within=COUNT
    )
    workers: int | None = option(
        None, "processes that read images [up to 4; 0 for the built-in images]", group="data", within="[0, 256]"
    )

    model: str | None = option(
        None,
        "[lecture_net for the built-in images, alexnet for a folder]",
        group="model",
        choices=("lecture_net", "alexnet", "alexnet_2012"),
    )
    layers: str = option("manual", "ours, or torch.nn's in the same places", group="model", choices=("manual", "torch"))
    activation: str | None = option(
        None, "[sigmoid for lecture_net, else relu]", group="model", choices=("relu", "sigmoid", "tanh")
    )
    batch_norm: bool | None = option(None, "after each layer but the last [yes, but for alexnet_2012]", group="model")
    init: str = option(
        "auto",
        "initial weights",
        group="model",
        choices=("auto", "torch", "kaiming", "sigmoid-aware", "paper"),
    )
    width: float = option(1.0, "multiplies every number of channels", group="model", within="(0, 64]")
    hidden: int | None = option(
        None, "width of the hidden linear layers [the model's, times --width]", group="model", within="[1, 1000000]"
    )
    dropout: float | None = option(None, "[0 with batch norm, else the model's own]", group="model", within=SHARE)

    epochs: int | None = option(
        None, "passes over the training images [8, or 20 for a folder]", group="optimisation", within=COUNT
    )
    batch_size: int | None = option(
        None, "images a step and process [64, or 32 for a folder]", group="optimisation", within=COUNT
    )
    lr: float | None = option(
        None, "learning rate at its highest [by model and activation]", group="optimisation", within=RATE
    )
    schedule: str = option(
        "cosine", "how the learning rate falls", group="optimisation", choices=("cosine", "step", "constant")
    )
    warmup_epochs: float | None = option(
        None,
        "epochs in which the learning rate rises from 0 [0; 1 for ReLU without batch norm]",
        group="optimisation",
        within="[0, 1e9]",
    )
    step_epochs: int = option(30, "with --schedule step: epochs between drops", group="optimisation", within=COUNT)
    step_factor: float = option(0.1, "with --schedule step: factor of each drop", group="optimisation", within="(0, 1]")
    momentum: float = option(0.9, "of SGD", group="optimisation", within=SHARE)
    weight_decay: float = option(5e-4, "of SGD", group="optimisation", within="[0, 1e38]")
    label_smoothing: float = option(0.0, "of the cross-entropy", group="optimisation", within=SHARE)
    amp: bool = option(False, "run the network under autocast to bfloat16", group="optimisation")
    limit_steps: int | None = option(None, "at most this many steps an epoch", group="optimisation", within=COUNT)

    out: str | None = option(None, "folder for everything the run writes [a new one under runs/]", group="run")
    resume: str | None = option(None, "run folder or checkpoint to go on from, with its options", group="run")
    eval_only: bool = option(False, "measure the checkpoint named by --resume, train nothing", group="run")
    compare: bool = option(False, "then train the same network through the other kind of layers", group="run")
    device: str = option("auto", "cuda where there is one, else cpu", group="run", choices=("auto", "cpu", "cuda"))
    dtype: str = option("float32", "of weights and images", group="run", choices=("float32", "float64"))
    channels_last: bool = option(False, "keep images and weights in channels_last memory format", group="run")
    seed: int = option(0, "of weights, order, crops and dropout", group="run", within=SEEDS)
    threads: int | None = option(None, "CPU threads [torch's choice]", group="run", within="[1, 1024]")
    log_every: int = option(20, "steps between loss lines in metrics.jsonl", group="run", within=COUNT)

    @property
    def is_tree(self):
        return self.data is not None and not self.synthetic

    @property
    def is_built_in(self):
        return self.data is None and not self.synthetic

    def resolved(self):
        """A copy without open choices; the learning rates did well on the built-in images and two folders of photos."""
        paths = {name: path_of(text, flag(name)) for name in PATHS if (text := getattr(self, name)) is not None}
        if self.data is not None:
            paths["data"] = os.path.abspath(paths["data"])  # so that --resume finds it from any folder
        model = self.model or ("alexnet" if self.is_tree else "lecture_net")
        is_small = model == "lecture_net"
        activation = self.activation or ("sigmoid" if is_small else "relu")
        batch_norm = model != "alexnet_2012" if self.batch_norm is None else self.batch_norm
        init, lr = self.init, self.lr
        # Plain ReLU networks start slowly or die: from torch's initial weights lecture_net stayed at chance for one
        # seed of three; from Kaiming's and with a warm-up all three learned.
        is_plain_relu = activation == "relu" and not batch_norm
        if is_plain_relu and model != "alexnet_2012" and init == "auto":
            init = "kaiming"
        if lr is None and activation == "sigmoid":
            lr = 0.1 if is_small else 0.05
        if lr is None:
            lr = 0.05 if is_small else 0.02 if batch_norm else 0.005
        defaults = {
            "model": model,
            "activation": activation,
            "batch_norm": batch_norm,
            # Batch norm regularises too: with dropout as well 20 epochs on 677 photographs reached 0.69, without 0.77.
            "dropout": 0.0 if batch_norm else None,
            "lr": lr,
            "image_size": 28 if self.is_built_in or (self.synthetic and is_small) else 224,
            "warmup_epochs": float(is_plain_relu),
            "epochs": 20 if self.is_tree else 8,
            "batch_size": 32 if self.is_tree else 64,
        }
        chosen = replace(self, **paths, init=init, **{k: v for k, v in defaults.items() if getattr(self, k) is None})
        chosen.check()
        return chosen

    def check(self):
        for f in fields(self):
            value, choices, within = getattr(self, f.name), f.metadata["choices"], f.metadata["within"]
            if choices and value not in choices:
                raise ConfigError(f"{flag(f.name)} must be one of {', '.join(choices)}; got {value}")
            if within and value is not None and (rule := broken_rule(value, within)):
                raise ConfigError(f"{flag(f.name)} must be {rule}; got {value}")
        smallest = SMALLEST_IMAGE.get(self.model, 1)
        is_lecture_net = self.model == "lecture_net"
        for name, holds, rule in (
            ("batch_size", self.batch_size >= 2 or not self.batch_norm, "at least 2 with batch norm"),
            ("model", not self.is_built_in or is_lecture_net, "lecture_net for the built-in images"),
            ("image_size", not self.is_built_in or self.image_size == 28, "28 for the built-in images"),
            ("image_size", self.image_size >= smallest, f"at least {smallest} for {self.model}"),
        ):
            if not holds:
                raise ConfigError(f"{flag(name)} must be {rule}; got {getattr(self, name)}")
        if self.eval_only and not self.resume:
            raise ConfigError("--eval-only needs --resume, the run or checkpoint to measure")
        if self.data and self.synthetic:
            raise ConfigError(f"--synthetic draws its images: leave out the folder {self.data}")

    def record(self):
        """What decides the outcome of the run, for its config.yaml and its checkpoints."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_RECORDED}


def flag(name):
    return "--" + name.replace("_", "-")


def broken_rule(value, within):
    """What a value outside of the interval must be; None for one inside."""
    low, high = within[1:-1].split(", ")
    is_above_low = value >= float(low) if within[0] == "[" else value > float(low)
    is_below_high = value <= float(high) if within[-1] == "]" else value < float(high)
    if is_above_low and is_below_high:
        return None
    if high == "1":
        return f"in {within}"
    if is_above_low:
        return f"at most {high}" if within[-1] == "]" else f"below {high}"
    return "positive" if within[0] == "(" else "0 or more" if low == "0" else f"at least {low}"


def path_of(text, source):
    try:
        return file_path(text)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None


def value_type(name):
    """The type of an option, without its None."""
    kind = typing.get_type_hints(TrainConfig)[name]
    if isinstance(kind, types.UnionType):
        return next(t for t in typing.get_args(kind) if t is not type(None))
    return kind


def can_be_none(name):
    return type(None) in typing.get_args(typing.get_type_hints(TrainConfig)[name])


def parse_values(values, source):
    """Checked options from a YAML file or a checkpoint, where anything may stand."""
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected options and their values, got {type(values).__name__}")
    parsed = {}
    known = [f.name for f in fields(TrainConfig)]
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{source}: unknown option {reprlib.repr(name)}{did_you_mean(str(name)[:80], known)}")
        kind = value_type(name)
        if kind is float and type(value) in (int, str):  # YAML takes 1e-3 for a word
            with suppress(ValueError, OverflowError):
                value = float(value)
        if type(value) is int and value.bit_length() > 64:  # Python itself refuses to print large ones
            raise ConfigError(f"{source}: {name} must be {kind.__name__}; got one of {value.bit_length()} bits")
        if type(value) is not kind and not (value is None and can_be_none(name)):
            raise ConfigError(f"{source}: {name} must be {kind.__name__}; got {reprlib.repr(value)}")
        parsed[name] = value
    return parsed


def build_parser():
    """The command line, one option a field. What is not given stays out of the result: a file or a default says it."""
    parser = Parser(
        prog="train.py",
        usage="train.py [DATA_DIR] [options]",
        description="Train an AlexNet, or the lecture's small network, on images through our own layers.",
        epilog="Without arguments: lecture_net, with sigmoids and batch norm, on the built-in Fashion-MNIST images.",
        argument_default=SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="YAML", help="read options from this file; those on the command line win")
    groups = {name: parser.add_argument_group(name) for name in ("data", "model", "optimisation", "run")}
    for f in fields(TrainConfig):
        group, kind, choices = groups[f.metadata["group"]], value_type(f.name), f.metadata["choices"]
        shown = f.metadata["help"]
        if f.default is not None and kind is not bool:
            shown += f" [{f.default}]"
        if f.name == "data":
            group.add_argument("data", nargs="?", metavar="DATA_DIR", help=shown)
        elif kind is bool and f.default is None:
            group.add_argument(flag(f.name), action=BooleanOptionalAction, help=shown)
        elif kind is bool:
            group.add_argument(flag(f.name), action="store_true", help=shown)
        else:
            metavar = None if choices else {int: "N", float: "X", str: "PATH"}[kind]
            group.add_argument(flag(f.name), type=kind, choices=choices, metavar=metavar, help=shown)
    return parser
