"""The training and evaluation loops.

Every random number is a function of (seed, epoch, and the image's index or the process's rank): a resumed run needs no
saved generator to end with the same bits as an uninterrupted one.
"""

import math
import time

import torch
from torch import nn

from .. import models
from . import checkpoint, distributed
from .config import RunError
from .data import make_loader
from .images import stream


class TrainingDiverged(RunError):
    """The loss is no longer a finite number; the message says what to try."""

    exit_status = 1


def build_model(config, split):
    """The network a resolved config asks for, with weights that depend on the seed and not on the kind of layers."""
    torch.manual_seed(config.seed)
    dropout = {} if config.dropout is None else {"dropout": config.dropout}
    model = getattr(models, config.model)(
        num_classes=len(split.classes),
        in_channels=len(split.mean),
        activation=config.activation,
        layers=config.layers,
        batch_norm=config.batch_norm,
        init=config.init,
        width=config.width,
        hidden=config.hidden,
        **dropout,
    )
    return model.to(getattr(torch, config.dtype))


def learning_rate(config, progress):
    """The rate after `progress` epochs, a fraction within the epoch included."""
    if progress < config.warmup_epochs:
        return config.lr * progress / config.warmup_epochs
    if config.schedule == "cosine":
        share = (progress - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
        return config.lr * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    if config.schedule == "step":
        return config.lr * config.step_factor ** int(progress // config.step_epochs)
    return config.lr


class Trainer:
    """One run: a model, its optimizer and data, and a report that hears of everything.

    `out` is the folder of the run's checkpoints, or None to write none.
    """

    def __init__(self, config, split, report, device, out=None):
        self.config, self.split, self.report, self.device, self.out = config, split, report, device, out
        self.epoch, self.history = 0, []
        self.kept = None  # the checkpoint to go on from
        self.model = build_model(config, split).to(device)
        self.memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model.to(memory_format=self.memory_format)
        self.parallel_model = distributed.wrap(self.model)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self.criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
        shared = dict(rank=distributed.rank(), world=distributed.world_size(), pin_memory=device.type == "cuda")
        self.train_loader = make_loader(split.train, config, train=True, **shared)
        self.val_loader = make_loader(split.val, config, train=False, **shared)
        shape = (1, -1, 1, 1)
        self.mean = torch.tensor(split.mean, dtype=getattr(torch, config.dtype), device=device).view(shape)
        self.std = torch.tensor(split.std, dtype=getattr(torch, config.dtype), device=device).view(shape)

    def fit(self):
        """Trains to the last epoch. Returns the record of that epoch."""
        if self.epoch < self.config.epochs:
            self.look_at_held_out_images()
        while self.epoch < self.config.epochs:
            self.epoch += 1
            started = time.perf_counter()
            train_loss, images = self.train_epoch()
            seconds = time.perf_counter() - started
            distributed.share_buffers(self.model)
            self.check_weights()
            record = {"epoch": self.epoch, "train_loss": train_loss, **self.evaluate()}
            if not math.isfinite(record["val_loss"]):
                raise self.diverged(f"the held-out loss is {record['val_loss']} after epoch {self.epoch}")
            record |= {"seconds": round(seconds, 2), "images_per_second": round(images / seconds, 1)}
            self.history.append(record)
            self.save()
            self.report.epoch(record, self.config.epochs)
            self.warn_if_guessing(train_loss)
        return self.history[-1]

    def look_at_held_out_images(self):
        """What is wrong with one is said before an epoch is spent."""
        with self.report.progress("looking at held-out images", len(self.val_loader)) as advance:
            for step, batch in enumerate(self.val_loader, start=1):
                self.report.bad_images(batch.problems)
                advance(step, None)

    def train_epoch(self):
        config, steps = self.config, len(self.train_loader)
        torch.manual_seed(stream(config.seed, "dropout", self.epoch, distributed.rank()).getrandbits(63))
        self.train_loader.batch_sampler.epoch = self.epoch
        self.parallel_model.train()
        total = torch.zeros(2, dtype=torch.float64, device=self.device)  # loss, images
        since_log, logged_at = torch.zeros((), dtype=torch.float64, device=self.device), 0
        with self.report.progress(f"epoch {self.epoch}/{config.epochs}", steps) as advance:
            for step, batch in enumerate(self.train_loader, start=1):
                rate = learning_rate(config, self.epoch - 1 + (step - 1 if config.warmup_epochs == 0 else step) / steps)
                loss = self.train_step(batch, rate)
                since_log += loss
                total += torch.stack((loss * len(batch.targets), torch.full_like(loss, len(batch.targets))))
                mean = None
                if step % config.log_every == 0 or step == steps:
                    distributed.sum_over_processes(since_log)
                    processes = distributed.world_size()
                    mean = since_log.item() / (step - logged_at) / processes  # the only wait for the device
                    if not math.isfinite(mean):
                        raise self.diverged(f"the loss is {mean} in epoch {self.epoch}, step {step}")
                    self.report.step({"epoch": self.epoch, "step": step, "loss": mean, "lr": rate})
                    since_log.zero_()
                    logged_at = step
                advance(step, mean)
        loss, images = distributed.sum_over_processes(total).tolist()
        return loss / images, int(images)

    def train_step(self, batch, rate):
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss = self.criterion(self.forward(self.parallel_model, batch), batch.targets.to(self.device))
        loss.backward()
        self.optimizer.step()
        return loss.detach().double()

    def forward(self, model, batch):
        """Logits of a batch of uint8 images, in the run's dtype."""
        self.report.bad_images(batch.problems)
        images = batch.images.to(self.device, non_blocking=True).to(self.mean.dtype)
        images = ((images / 255 - self.mean) / self.std).contiguous(memory_format=self.memory_format)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp):
            logits = model(images)
        return logits.to(self.mean.dtype)

    @torch.no_grad()
    def evaluate(self):
        """Loss, top-1 and top-5 over every validation image exactly once, however many processes share them."""
        self.model.eval()
        totals = torch.zeros(4, dtype=torch.float64, device=self.device)  # images, loss, top-1, top-5
        for batch in self.val_loader:
            targets = batch.targets.to(self.device)
            logits = self.forward(self.model, batch)
            loss = nn.functional.cross_entropy(logits, targets, reduction="sum")
            hits = logits.topk(min(5, logits.size(1))).indices == targets[:, None]
            totals[0] += len(targets)
            totals[1:] += torch.stack((loss.double(), hits[:, 0].sum().double(), hits.any(1).sum().double()))
        images, loss, top1, top5 = distributed.sum_over_processes(totals).tolist()
        return {"val_loss": loss / images, "val_top1": top1 / images, "val_top5": top5 / images}

    def check_weights(self):
        """A step may spoil the weights after its loss was finite: such weights are neither measured nor saved."""
        tensors = self.model.state_dict()
        for number, values in enumerate(self.optimizer.state.values()):
            if (momentum := values.get("momentum_buffer")) is not None:
                tensors[f"momentum {number}"] = momentum
        if lost := checkpoint.not_finite(tensors):
            raise self.diverged(f"weights are not finite after epoch {self.epoch}: {lost}")

    def diverged(self, what):
        kept = f"; the last good epoch is in {self.kept}" if self.kept else ""
        return TrainingDiverged(
            f"{what}: training stopped{kept}. "
            f"The learning rate {self.config.lr:g} is probably too high for this network: "
            f"try --lr {self.config.lr / 4:g}, --warmup-epochs 1 or --batch-norm"
        )

    def warn_if_guessing(self, loss):
        guessing = math.log(len(self.split.classes))
        if loss > 0.98 * guessing and self.epoch in (2, self.config.epochs):
            self.report.warn(
                f"after {self.epoch} epochs the loss, {loss:.3f}, is that of guessing, {guessing:.3f}: "
                "try another --lr, --warmup-epochs 1, --batch-norm or --init sigmoid-aware"
            )

    def check_room(self):
        if self.out is not None:
            weights = list(self.model.parameters())
            checkpoint.check_room(self.out, weights + weights)  # as many numbers are momentum

    def save(self):
        if self.out is not None:
            distributed.from_first(self.write_checkpoints)
            self.kept = self.out / "last.pt"

    def write_checkpoints(self):
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "history": self.history,
            "config": self.config.record(),
            "classes": list(self.split.classes),
        }
        # The best one first: whoever is interrupted in between repeats this epoch, and ends with both.
        if self.history[-1]["val_top1"] == max(record["val_top1"] for record in self.history):
            checkpoint.save(state, self.out / "best.pt")
        checkpoint.save(state, self.out / "last.pt")

    def restore(self, state, path):
        """Continues from a checkpoint as if the run had never stopped."""
        if state["classes"] != list(self.split.classes):
            raise checkpoint.CheckpointError(f"{path} was trained on other classes than this data has")
        checkpoint.restore(self.model, self.optimizer, state, path)
        self.epoch, self.history = state["epoch"], state["history"]
        self.kept = checkpoint.find(path)
