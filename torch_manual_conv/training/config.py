"""Every option of a training run: one dataclass that is the command line, the YAML file and the record in a checkpoint.

This file does not import torch, so that a mistyped option is reported at once.
"""

import argparse
import difflib
import os
import types
import typing
from dataclasses import asdict, dataclass, field, fields, replace


class RunError(Exception):
    """A run that cannot begin or go on, for a reason that its message tells the user."""

    exit_status = 2


class ConfigError(RunError):
    """An option has a value that cannot work."""


def option(default, help, *, group, choices=None):
    return field(default=default, metadata={"help": help, "group": group, "choices": choices})


NOT_RECORDED = ("out", "resume", "eval_only", "compare")  # they say what to do now, not what the run is
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
    image_size: int | None = option(None, "pixels a side [28 for the built-in images, 224 for a folder]", group="data")
    min_crop: float = option(0.25, "smallest share of a training photograph that a random crop keeps", group="data")
    max_pixels: int = option(64_000_000, "larger images are refused; JPEGs may have four times as many", group="data")
    workers: int | None = option(None, "processes that read images [up to 4; 0 for the built-in images]", group="data")

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
    width: float = option(1.0, "multiplies every number of channels", group="model")
    hidden: int | None = option(None, "width of the hidden linear layers [the model's, times --width]", group="model")
    dropout: float | None = option(None, "[0 with batch norm, else the model's own]", group="model")

    epochs: int | None = option(None, "passes over the training images [8, or 20 for a folder]", group="optimisation")
    batch_size: int | None = option(None, "images a step and process [64, or 32 for a folder]", group="optimisation")
    lr: float | None = option(None, "learning rate at its highest [by model and activation]", group="optimisation")
    schedule: str = option(
        "cosine", "how the learning rate falls", group="optimisation", choices=("cosine", "step", "constant")
    )
    warmup_epochs: float | None = option(
        None,
        "epochs in which the learning rate rises from 0 [0; 1 for ReLU without batch norm]",
        group="optimisation",
    )
    step_epochs: int = option(30, "with --schedule step: epochs between drops", group="optimisation")
    step_factor: float = option(0.1, "with --schedule step: factor of each drop", group="optimisation")
    momentum: float = option(0.9, "of SGD", group="optimisation")
    weight_decay: float = option(5e-4, "of SGD", group="optimisation")
    label_smoothing: float = option(0.0, "of the cross-entropy", group="optimisation")
    amp: bool = option(False, "run the network under autocast to bfloat16", group="optimisation")
    limit_steps: int | None = option(None, "at most this many steps an epoch", group="optimisation")

    out: str | None = option(None, "folder for everything the run writes [a new one under runs/]", group="run")
    resume: str | None = option(None, "run folder or checkpoint to go on from, with its options", group="run")
    eval_only: bool = option(False, "measure the checkpoint named by --resume, train nothing", group="run")
    compare: bool = option(False, "then train the same network through the other kind of layers", group="run")
    device: str = option("auto", "cuda where there is one, else cpu", group="run", choices=("auto", "cpu", "cuda"))
    dtype: str = option("float32", "of weights and images", group="run", choices=("float32", "float64"))
    channels_last: bool = option(False, "keep images and weights in channels_last memory format", group="run")
    seed: int = option(0, "of weights, order, crops and dropout", group="run")
    threads: int | None = option(None, "CPU threads [torch's choice]", group="run")
    log_every: int = option(20, "steps between loss lines in metrics.jsonl", group="run")

    @property
    def is_tree(self):
        return self.data is not None and not self.synthetic

    @property
    def is_built_in(self):
        return self.data is None and not self.synthetic

    def resolved(self):
        """A copy without open choices; the learning rates did well on the built-in images and two folders of photos."""
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
        data = self.data and os.path.abspath(os.path.expanduser(self.data))  # a resumed run may start anywhere
        chosen = replace(self, data=data, init=init, **{k: v for k, v in defaults.items() if getattr(self, k) is None})
        chosen.check()
        return chosen

    def check(self):
        smallest = SMALLEST_IMAGE.get(self.model, 1)
        rules = [
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("max_pixels", self.max_pixels >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 2 or not self.batch_norm, "at least 2 with batch norm"),
            ("lr", 0 < self.lr < float("inf"), "positive"),
            (
                "model",
                not self.is_built_in or self.model == "lecture_net",
                "lecture_net for the built-in images",
            ),
            ("image_size", not self.is_built_in or self.image_size == 28, "28 for the built-in images"),
            ("image_size", self.image_size >= smallest, f"at least {smallest} for {self.model}"),
            ("min_crop", 0 < self.min_crop <= 1, "in (0, 1]"),
            ("workers", self.workers is None or self.workers >= 0, "0 or more"),
            ("width", 0 < self.width < float("inf"), "positive"),
            ("hidden", self.hidden is None or self.hidden >= 1, "at least 1"),
            ("dropout", self.dropout is None or 0 <= self.dropout < 1, "in [0, 1)"),
            ("warmup_epochs", self.warmup_epochs >= 0, "0 or more"),
            ("step_epochs", self.step_epochs >= 1, "at least 1"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)"),
            ("limit_steps", self.limit_steps is None or self.limit_steps >= 1, "at least 1"),
            ("log_every", self.log_every >= 1, "at least 1"),
            ("threads", self.threads is None or self.threads >= 1, "at least 1"),
        ]
        for f in fields(self):
            if choices := f.metadata["choices"]:
                rules.append((f.name, getattr(self, f.name) in choices, f"one of {', '.join(choices)}"))
        for name, holds, rule in rules:
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


def value_type(name):
    """The type of an option, without its None."""
    kind = typing.get_type_hints(TrainConfig)[name]
    if isinstance(kind, types.UnionType):
        return next(t for t in typing.get_args(kind) if t is not type(None))
    return kind


def parse_values(values, source):
    """Checked options from a YAML file or a checkpoint, where anything may stand."""
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected options and their values, got {type(values).__name__}")
    parsed = {}
    known = [f.name for f in fields(TrainConfig)]
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{source}: unknown option {name!r}{did_you_mean(str(name), known)}")
        kind = value_type(name)
        if kind is float and type(value) is int:
            value = float(value)
        if value is not None and type(value) is not kind:
            raise ConfigError(f"{source}: {name} must be {kind.__name__}; got {value!r}")
        parsed[name] = value
    return parsed


def did_you_mean(word, known):
    near = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {near[0]}?" if near else ""


class Parser(argparse.ArgumentParser):
    """Names the nearest option when one is mistyped."""

    def parse_args(self, argv=None):
        options, unknown = self.parse_known_args(argv)
        if unknown:
            known = [text for action in self._actions for text in action.option_strings]
            self.error(f"unknown argument {unknown[0]}{did_you_mean(unknown[0].split('=')[0], known)}")
        return options


def build_parser():
    """The command line, one option a field. What is not given stays out of the result: a file or a default says it."""
    parser = Parser(
        prog="train.py",
        usage="train.py [DATA_DIR] [options]",
        description="Train an AlexNet, or the lecture's small network, on images through our own layers.",
        epilog="Without arguments: lecture_net, with sigmoids and batch norm, on the built-in Fashion-MNIST images.",
        argument_default=argparse.SUPPRESS,
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
            group.add_argument(flag(f.name), action=argparse.BooleanOptionalAction, help=shown)
        elif kind is bool:
            group.add_argument(flag(f.name), action="store_true", help=shown)
        else:
            metavar = None if choices else {int: "N", float: "X", str: "PATH"}[kind]
            group.add_argument(flag(f.name), type=kind, choices=choices, metavar=metavar, help=shown)
    return parser
