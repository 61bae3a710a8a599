"""The command: `python train.py ...` and `tmc-train ...`."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from .config import ConfigError, RunError, TrainConfig, build_parser, parse_values


def main(argv=None):
    """Parses, trains, reports. Returns the exit status: 0, 1 when training failed, 2 for a wrong option or input."""
    options = vars(build_parser().parse_args(argv))
    try:
        return run_command(options)
    except RunError as error:
        message = str(error).rpartition("DataError: ")[2].strip()  # from a worker process it comes with a traceback
        return fail(message, error.exit_status)
    except ModuleNotFoundError as error:
        return fail(f"{error}: pip install 'torch_manual_conv[train]' brings what training needs", 2)
    except KeyboardInterrupt:
        return fail("interrupted; --resume RUN_FOLDER goes on from the last whole epoch", 130)


def fail(message, exit_status):
    print(f"train.py: error: {message}", file=sys.stderr)
    return exit_status


def run_command(options):
    import torch  # only now that a mistyped option would have been reported

    from . import checkpoint, distributed

    config_file = options.pop("config", None)
    values = read_yaml(config_file) if config_file else {}
    state = None
    if options.get("resume"):
        state = checkpoint.load(options["resume"])
        values |= parse_values(state["config"], options["resume"])
        values["data"] = find_data(values.get("data"), checkpoint.find(options["resume"]))
    config = TrainConfig(**(values | options)).resolved()
    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device(config)
    with distributed.process_group(device.type):
        if config.compare:
            return compare(config, device)
        out = checkpoint.find(config.resume).parent if config.resume and not config.out else run_folder(config)
        train(config, device, out, state)
    return 0


def find_data(data, run):
    """The folder of a run's images. One whose relative name means nothing here is looked for above the run."""
    places = (parent / (data or "") for parent in Path(run).resolve().parents)
    return data if not data or Path(data).is_dir() else str(next(filter(Path.is_dir, places), data))


def train(config, device, out, state=None):
    """One run from its config to its files. Returns the Trainer."""
    from . import distributed
    from .data import open_data
    from .engine import Trainer
    from .images import printable
    from .report import Report

    split = open_data(config)
    report = Report(None if config.eval_only else out, speaks=distributed.rank() == 0)
    trainer = Trainer(config, split, report, device, out)
    if state is not None:
        trainer.restore(state, config.resume)
    report.line(describe(config, split, trainer.model, device))
    if split.left_out and report.speaks:
        report.warn(f"skipped in {printable(config.data)}: {split.left_out}")
    if config.eval_only:
        report.line(report.scores(trainer.evaluate()))
        return trainer
    report.start(config, trainer.epoch)
    trainer.fit()
    report.curves(trainer.history)
    final = trainer.history[-1]
    report.line(f"held-out accuracy after {final['epoch']} epochs: {final['val_top1']:.4f}")
    if report.unreadable:
        report.line(f"{len(report.unreadable)} image files could not be read")
    report.line("wrote " + " ".join(str(path) for path in report.files()))
    return trainer


def compare(config, device):
    """The same network, data and seed through both kinds of layers, one after the other."""
    if config.resume:
        raise ConfigError("--compare trains from the start: leave out --resume")
    out = run_folder(config)
    names = {"manual": "our layers", "torch": "torch.nn's layers"}
    order = [config.layers, *(kind for kind in names if kind != config.layers)]
    runs = {}
    for kind in order:
        trainer = train(replace(config, layers=kind), device, out / kind)
        runs[kind] = trainer.history
        say = trainer.report.line
        say("")
    say(f"{'':20}{'held-out top-1':>16}{'top-5':>10}{'train loss':>12}{'seconds':>10}")
    for kind in order:
        top1, top5, loss = (runs[kind][-1][key] for key in ("val_top1", "val_top5", "train_loss"))
        seconds = sum(record["seconds"] for record in runs[kind])
        say(f"{names[kind]:20}{top1:16.4f}{top5:10.4f}{loss:12.4f}{seconds:10.1f}")
    if config.dtype == "float32":
        say("float32 rounds differently in every layer, and training magnifies it; step by step they agree in float64:")
        say("  train.py --compare --dtype float64 --log-every 1 --limit-steps 100 --epochs 1")
    elif trainer.report.speaks:
        count, gap = largest_loss_gap(out / "manual", out / "torch")
        say(f"largest relative difference of the first {count} logged training losses: {gap:.1e}")
    return 0


def largest_loss_gap(one, other, count=100):
    """Over the first `count` logged training losses of two runs: their number, and max |a - b| / |b|."""
    pairs = list(zip(step_losses(one), step_losses(other), strict=True))[:count]
    return len(pairs), max(abs(a - b) / abs(b) for a, b in pairs)


def step_losses(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "step" in record]


def run_folder(config):
    """--out, else a new folder under runs/ named after what is trained; the same one in every process."""
    from . import distributed

    name = "synthetic" if config.synthetic else Path(config.data).resolve().name if config.data else "fashion"
    name += f"-{config.model}-{config.activation}{'-bn' if config.batch_norm else ''}"
    name += "" if config.compare else f"-{config.layers}"
    out = Path(config.out or Path("runs") / name)
    if not config.out:
        number = 1
        while out.exists():
            number += 1
            out = Path("runs") / f"{name}-{number}"
    elif any(out.glob("**/last.pt")) and not config.resume:
        raise ConfigError(f"--out {out} already holds a run: go on with it by --resume {out}, or choose another folder")
    return distributed.from_first(out)


def choose_device(config):
    import torch

    from .. import has_cuda

    usable = torch.cuda.is_available() and (has_cuda or (config.layers == "torch" and not config.compare))
    if config.device == "cuda" and not usable:
        reason = "torch_manual_conv has no CUDA kernels" if torch.cuda.is_available() else "torch sees no GPU"
        raise ConfigError(f"--device cuda: {reason}")
    return torch.device("cuda" if usable and config.device != "cpu" else "cpu")


def describe(config, split, model, device):
    weights = sum(p.numel() for p in model.parameters())
    norm = "with" if config.batch_norm else "without"
    layers = "our layers" if config.layers == "manual" else "torch.nn's layers"
    return (
        f"{config.model}, {config.activation}, {norm} batch norm, {weights:,} weights, through {layers} on {device}: "
        f"{len(split.train):,} training and {len(split.val):,} held-out images of {len(split.classes)} classes"
    )


def read_yaml(path):
    import yaml

    try:
        return parse_values(yaml.safe_load(Path(path).read_text()), path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path}: {error}") from error
