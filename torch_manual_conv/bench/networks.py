"""Whole stages and training steps: what a user of the layers waits for."""

import copy
from contextlib import nullcontext
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from .. import convert, functional, models
from .problems import LAYOUTS, F, Problem, in_layouts, random
from .shapes import NETWORKS

ACTIVATIONS = {"relu": torch.relu, "sigmoid": torch.sigmoid}
CLASSES, IMAGE = 1000, 224
NO_AUTOCAST = nullcontext()
SGD = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4, "foreach": True}  # the same optimizer in every column


# ---- conv -> activation -> max pool: fused, beside torch's chain.

STAGES = {  # name: AlexNet's layer and its activation
    f"{layer.name} {activation}": (layer, activation)
    for activation in ACTIVATIONS
    for layer in NETWORKS["alexnet"].layers
    if layer.name in ("conv1", "conv2", "conv5")
}


def stage_problem(settings, group, name, batch, what):
    layer, activation = STAGES[name]
    fan_in = layer.c * layer.r * layer.s
    p, q = layer.output_size()
    with_gradients = what != "forward"
    # The first layer's input is an image: nobody needs its gradient.
    needs = [with_gradients and layer.name != "conv1", with_gradients, with_gradients, False]
    tensors = in_layouts(
        settings,
        random(batch, layer.c, layer.h, layer.w),
        random(layer.k, layer.c, layer.r, layer.s, seed=1) / fan_in**0.5,
        random(layer.k, seed=2) / 10,
        random(batch, layer.k, (p - 3) // 2 + 1, (q - 3) // 2 + 1, seed=3),
    )
    operands = {layout: _leaves(tensors[layout], needs) for layout in LAYOUTS}

    def ours(x, weight, bias, _=None):
        return functional.conv_act_pool2d(
            x, weight, bias, layer.stride, layer.padding, activation=activation, pool="max", pool_size=3, pool_stride=2
        )

    def theirs(x, weight, bias, _=None):
        return F.max_pool2d(ACTIVATIONS[activation](F.conv2d(x, weight, bias, layer.stride, layer.padding)), 3, 2)

    def with_backward(stage, *operands):
        output = stage(*operands)
        return output.detach(), *torch.autograd.grad(output, [t for t in operands if t.requires_grad], operands[3])

    stages = {"ours": ours, "torch": theirs}
    runs = {side: partial(with_backward, stage) if with_gradients else stage for side, stage in stages.items()}
    last = operands["channels_last"]
    return Problem(
        group,
        name,
        what,
        f"[{batch}, {layer.c}, {layer.h}, {layer.w}], {layer}, {activation}, max 3 x 3, stride 2",
        settings.dtype,
        "ms",
        calls={f"{side} {layout}": partial(runs[side], *operands[layout]) for side in runs for layout in LAYOUTS},
        reference=partial(runs["torch"], *_leaves([t.double() for t in operands["contiguous"]], needs)),
        operations=(1 + sum(needs[:2])) * 2 * batch * layer.k * p * q * fan_in,
        needed=(1 + sum(needs[:2])) * 2 * batch * layer.k * layer.c * layer.taps(),
        images=batch,
        compiled=lambda side: partial(torch.compile(runs[side]), *last),
        keeps={side: partial(stage, *last) for side, stage in stages.items()} if with_gradients else {},
        parameters=last[1:3] if needs[0] else last[:3],
        chooses=True,
        records_graph=with_gradients,
    )


def _leaves(tensors, needs):
    return [t.detach().requires_grad_(needed) for t, needed in zip(tensors, needs, strict=True)]


# ---- AlexNet: the convolutional part alone, and the whole training step.

STEPS = {f"{part} {activation}": (part, activation) for part in ("features", "full") for activation in ACTIVATIONS}


def step_problem(settings, group, name, batch, what):
    part, activation = STEPS[name]
    images = random(batch, 3, IMAGE, IMAGE).to(settings.device)
    labels = torch.arange(batch, device=settings.device) % CLASSES
    torch.manual_seed(0)
    hidden = None if part == "full" else 16  # the linear layers are not part of it
    original = models.alexnet(CLASSES, dropout=0.0, activation=activation, layers="torch", hidden=hidden)
    original.to(settings.device)
    run = _features if part == "features" else full_step

    def contestant(network, form=torch.contiguous_format):
        network.to(memory_format=form)
        optimizer = torch.optim.SGD(network.parameters(), **SGD) if part == "full" else None
        own_images = images.contiguous(memory_format=form)
        kept_anyway.append(own_images)
        return partial(run, network, own_images, labels, optimizer, settings.autocast())

    def compiled(side):
        network = copy.deepcopy(original)
        if side == "ours":
            convert(network, fuse=True)
        (network if part == "full" else network.features).compile()
        kept_anyway.extend(network.parameters())
        return contestant(network, torch.channels_last)

    networks = {
        (side, layout): convert(copy.deepcopy(original), fuse=True) if side == "ours" else copy.deepcopy(original)
        for side in ("ours", "torch")
        for layout in LAYOUTS
    }
    kept_anyway = [images, *(p for network in networks.values() for p in network.parameters())]
    forward = {side: partial(_loss, networks[side, "channels_last"], part) for side in ("ours", "torch")}
    exact = copy.deepcopy(original).double()
    return Problem(
        group,
        name,
        what,
        f"AlexNet, [{batch}, 3, {IMAGE}, {IMAGE}]" + (", SGD" if part == "full" else ""),
        settings.dtype,
        "images/s",
        calls={
            f"{side} {layout}": contestant(network, LAYOUTS[layout]) for (side, layout), network in networks.items()
        },
        reference=partial(run, exact, images.double(), labels, None),
        operations=_operations(partial(run, copy.deepcopy(original), images[:1], labels[:1], None)) * batch,
        images=batch,
        compiled=compiled,
        keeps={side: partial(loss, images, labels, settings.autocast()) for side, loss in forward.items()},
        parameters=kept_anyway,
        chooses=True,
        records_graph=True,
    )


def _loss(network, part, images, labels, autocast):
    with autocast:
        if part == "features":
            features = network.features(images)
            wide = features.to(torch.promote_types(features.dtype, torch.float32))
            return wide.square().sum() / (2 * len(images))
        return F.cross_entropy(network(images), labels)


def features_call(network, images, autocast):
    """A function of nothing: forward and backward through the convolutional part alone."""
    return partial(_features, network, images, None, None, autocast)


def _features(network, images, labels, optimizer, autocast=NO_AUTOCAST):
    loss = _loss(network, "features", images, labels, autocast)
    return loss.detach(), *torch.autograd.grad(loss, list(network.features.parameters()))


def full_step(network, images, labels, optimizer, autocast=NO_AUTOCAST):
    network.zero_grad(set_to_none=True)
    loss = _loss(network, "full", images, labels, autocast)
    loss.backward()
    if optimizer is not None:
        optimizer.step()
    return loss.detach(), *(parameter.grad for parameter in network.parameters())


def _operations(call):
    """Of the convolutions and linear layers, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
