"""The command: `python train.py ...` and `tmc-train ...`."""

import json
from dataclasses import replace
from pathlib import Path

from .._command import run
from .config import ConfigError, RunError, TrainConfig, build_parser, parse_values, path_of

MOST_YAML = 1_000_000  # characters that are read of a file of options


def main(argv=None):
    """Parses, trains, reports. Returns the exit status: 0, 1 when training failed, 2 for a wrong option or input."""
    from . import distributed

    def work():
        try:
            return run_command(argv)
        except ModuleNotFoundError as error:
            raise RunError(f"{error}: pip install 'torch_manual_conv[train]' brings what training needs") from error

    return run("train.py", work, distributed.first_to_say)


def run_command(argv):
    import torch

    from . import checkpoint, distributed

    parser = build_parser()
    parser.may_say = distributed.first_to_say
    options = vars(parser.parse_args(argv))
    torch.ops.tmc.cpu_isa()  # raises where TMC_CPU_ISA is wrong
    config_file = options.pop("config", None)
    values = read_yaml(path_of(config_file, "--config")) if config_file is not None else {}
    state = None
    if options.get("resume") is not None:
        options["resume"] = path_of(options["resume"], "--resume")
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
        train(config, device, run_folder(config), state)
    return 0


def find_data(data, run):
    """The folder of a run's images. One whose relative name means nothing here is looked for above the run."""
    places = (parent / (data or "") for parent in Path(run).resolve().parents)
    return data if not data or Path(data).is_dir() else str(next(filter(Path.is_dir, places), data))


def train(config, device, out, state=None):
    """One run from its config to its files. Returns the Trainer."""
    from . import distributed
    from .data import open_data
    from .engine import Trainer, TrainingDiverged
    from .loading import watched
    from .report import Report

    split = open_data(config)
    report = Report(None if config.eval_only else out, speaks=distributed.rank() == 0)
    trainer = Trainer(config, split, report, device, out)
    if state is not None:
        trainer.restore(state, config.resume)
    report.line(describe(config, split, trainer.model, device))
    if split.left_out:
        report.warn(f"skipped in {config.data}: {split.left_out}")
    if config.eval_only:
        with watched():
            report.line(report.scores(trainer.evaluate()))
        return trainer
    distributed.from_first(lambda: report.start(config, trainer.history))
    distributed.from_first(trainer.check_room)
    try:
        with watched():
            trainer.fit()
    except TrainingDiverged:  # it says so itself, and going on as before would be in vain
        raise
    except BaseException as error:
        go_on = (
            f"--resume {trainer.kept} goes on from the last whole epoch" if trainer.kept else "no epoch was finished"
        )
        error.hint = f"; {go_on}"
        raise
    report.curves(trainer.history)
    final = trainer.history[-1]
    report.line(f"held-out accuracy after {final['epoch']} epochs: {final['val_top1']:.4f}")
    if unreadable := distributed.union(report.unreadable):
        report.line(f"{len(unreadable)} image files could not be read")
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
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    return [record["loss"] for record in records if "step" in record]


def run_folder(config):
    """--out, else that of --resume, else a new folder under runs/ named after what is trained."""
    from . import distributed

    return distributed.from_first(lambda: find_folder(config))


def find_folder(config):
    from . import checkpoint

    resumed = checkpoint.find(config.resume).parent if config.resume else None
    if resumed and not config.out:
        return resumed
    name = "synthetic" if config.synthetic else (Path(config.data).name[:100] or "data") if config.data else "fashion"
    name += f"-{config.model}-{config.activation}{'-bn' if config.batch_norm else ''}"
    name += "" if config.compare else f"-{config.layers}"
    out = Path(config.out or Path("runs") / name)
    there = next(path for path in (out, *out.parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"the run's folder {out} cannot be made: {there} is no folder")
    if not config.out:
        number = 1
        while out.exists():
            number += 1
            out = Path("runs") / f"{name}-{number}"
        return out
    if out.exists() and not (resumed and out.samefile(resumed)):
        if any((out / kind / "last.pt").exists() for kind in ("", "manual", "torch")):
            go_on = f"go on with it by --resume {out}, or choose another folder"
            raise ConfigError(f"--out {out} already holds a run: {go_on}")
        if (out / "config.yaml").exists() and not (out / "metrics.jsonl").exists():
            raise ConfigError(f"--out {out} holds a config.yaml that no run has written: choose another folder")
    return out


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
    try:
        import yaml

        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file.read(MOST_YAML))
    except ModuleNotFoundError:
        raise
    except Exception as error:  # yaml raises what it meets: ValueError, AttributeError, RecursionError, ...
        raise ConfigError(f"--config {path}: {error}") from error
    return parse_values(values, path)
