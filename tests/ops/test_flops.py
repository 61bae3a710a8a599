"""torch's FLOP counter counts our layers as it counts torch's."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import torch_manual_conv as tmc
import torch_manual_conv.flops

CONVOLUTIONS = {
    "conv1d": (lambda nn: nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 17)),
    "conv2d": (lambda nn: nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=1, dilation=2), (2, 4, 15, 13)),
    "conv2d-same": (lambda nn: nn.Conv2d(4, 6, 4, padding="same"), (4, 9, 8)),
    "conv3d": (lambda nn: nn.Conv3d(4, 6, 3, stride=(1, 2, 1), padding=1), (2, 4, 5, 7, 8)),
    "conv_transpose2d": (lambda nn: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (2, 4, 7, 6)),
}


def flops(function, *args):
    with FlopCounterMode(display=False) as counter:
        function(*args)
    return counter.get_total_flops()


def step(layer, image):
    layer(image).sum().backward()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("make, size", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions(make, size):
    ours, theirs = make(tmc.nn), make(torch.nn)
    assert flops(ours, torch.rand(size)) == flops(theirs, torch.rand(size)) > 0
    images = [torch.rand(size, requires_grad=True) for _ in range(2)]
    assert flops(step, ours, images[0]) == flops(step, theirs, images[1])
    assert flops(step, ours, torch.rand(size)) < flops(step, ours, images[0])  # the image asks for no gradient


def test_grad_weight_of_groups_counts_as_much_as_forward():
    layer = tmc.nn.Conv2d(8, 8, 3, groups=4)
    image = torch.rand(2, 8, 9, 9)
    assert flops(step, layer, image) == 2 * flops(layer, image) == 2 * 2 * 2 * 7 * 7 * 8 * 2 * 9


@pytest.mark.parametrize("pool", ["MaxPool2d", "AvgPool2d"])
def test_stages(pool):
    """Pools and activations count as nothing, in torch, too; a map that is not kept is computed twice."""
    torch.manual_seed(0)
    chain = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, padding=2), torch.nn.Sigmoid(), getattr(torch.nn, pool)(2))
    images = [torch.rand(2, 3, 12, 12, requires_grad=True) for _ in range(3)]
    wanted = flops(step, chain, images[0])
    stage = tmc.convert(chain, fuse=True)
    assert flops(step, stage, images[1]) == wanted == 3 * flops(stage, images[1])
    again = tmc.nn.ConvActPool2d(3, 8, 5, padding=2, activation="sigmoid", pool=pool[:3].lower(), save="recompute")
    assert flops(step, again, images[2]) == (wanted if pool == "MaxPool2d" else wanted // 3 * 4)


def test_alexnet():
    image = torch.rand(1, 3, 224, 224)
    wanted = flops(tmc.models.alexnet(layers="torch"), image)
    assert flops(tmc.models.alexnet(), image) == wanted == 1_428_376_960  # 0.714 G multiply-adds
