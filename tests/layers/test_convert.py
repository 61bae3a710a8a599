"""convert and revert: any model's layers exchanged for ours and back, with nothing else changed."""

import copy

import pytest
import torch
from comparisons import close, same_values
from torch import nn as torch_nn

import torch_manual_conv
from torch_manual_conv import fused, nn

torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")

# name: constructor, image size; the smallest that the architecture accepts
MODELS = {
    "alexnet": (torchvision.models.alexnet, 63),
    "vgg11_bn": (torchvision.models.vgg11_bn, 32),
    "resnet18": (torchvision.models.resnet18, 32),
    "squeezenet1_1": (torchvision.models.squeezenet1_1, 33),
    "mobilenet_v3_small": (torchvision.models.mobilenet_v3_small, 32),
    "shufflenet_v2_x0_5": (torchvision.models.shufflenet_v2_x0_5, 32),
    "densenet121": (torchvision.models.densenet121, 32),
    "googlenet": (lambda: torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=False), 33),
}


def stage(pool=None):
    """A small network: two stages and a convolution that no pool follows."""
    return torch_nn.Sequential(
        torch_nn.Conv2d(3, 4, 3, padding=1),
        torch_nn.ReLU(inplace=True),
        pool or torch_nn.MaxPool2d(3, 2),
        torch_nn.Conv2d(4, 5, 3),
        torch_nn.Sigmoid(),
        torch_nn.AvgPool2d(2),
        torch_nn.Conv2d(5, 2, 1),
        torch_nn.Tanh(),
    ).double()


IMAGES = torch.arange(2 * 3 * 13 * 11, dtype=torch.float64).reshape(2, 3, 13, 11).sin()


def types(model):
    return [type(module) for module in model.modules()]


def twins_left(model):
    return [m for m in model.modules() if type(m) in torch_manual_conv.convert.TWINS]


@pytest.mark.parametrize("constructor, size", MODELS.values(), ids=MODELS)
def test_same_logits_and_gradients(constructor, size):
    torch.manual_seed(0)
    theirs = constructor().double().eval()
    keys, kinds = list(theirs.state_dict()), types(theirs)
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    images_too = images.clone().requires_grad_()
    wanted = theirs(images_too)
    (wanted_grad,) = torch.autograd.grad(wanted.square().sum(), images_too)

    ours = torch_manual_conv.convert(copy.deepcopy(theirs))
    assert list(ours.state_dict()) == keys and any(type(m).__module__ == nn.__name__ for m in ours.modules())
    images_too = images.clone().requires_grad_()
    logits = ours(images_too)
    (grad,) = torch.autograd.grad(logits.square().sum(), images_too)
    close(logits, wanted, "logits", rtol=1e-9, atol=1e-9 * wanted.abs().max().item())
    close(grad, wanted_grad, "gradient of the images", rtol=1e-9, atol=1e-9 * wanted_grad.abs().max().item())

    back = torch_manual_conv.revert(ours)
    assert types(back) == kinds
    same_values(back(images), theirs(images), "logits after revert")


def test_parameters_stay_the_same_objects():
    model = stage()
    before = dict(model.named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert torch_manual_conv.convert(model) is model
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    model(IMAGES).square().sum().backward()
    kept = model[0].weight.detach().clone()
    optimizer.step()
    assert not torch.equal(kept, model[0].weight)


def runs(sequential):
    """The numbers of layers that each call of it computes together."""
    return [1 + len(part.followers) for part in fused.split(sequential) if isinstance(part, fused.Run)]


def test_fuse():
    model = stage()
    wanted, keys, kinds, layers = model(IMAGES), list(model.state_dict()), types(model), list(model)
    wanted_grads = torch.autograd.grad(wanted.square().sum(), model.parameters())
    torch_manual_conv.convert(model, fuse=True)
    assert isinstance(model, torch_nn.Sequential) and runs(model) == [3, 3, 2]
    assert list(model) == layers and list(model.state_dict()) == keys
    output = model(IMAGES)
    assert "ConvActPool2dFunction" in output.grad_fn.name()
    close(output, wanted, "output")
    names = [name for name, _ in model.named_parameters()]
    close(torch.autograd.grad(output.square().sum(), model.parameters()), wanted_grads, "gradients", names)
    torch_manual_conv.revert(model)
    assert types(model) == kinds and list(model) == layers
    same_values(model(IMAGES), wanted, "output after revert")


RELU, SIGMOID, BATCH_NORM = torch_nn.ReLU(inplace=True), torch_nn.Sigmoid(), torch_nn.BatchNorm2d(4)
MAX, AVERAGE, CEIL = torch_nn.MaxPool2d(3, 2), torch_nn.AvgPool2d(2), torch_nn.MaxPool2d(2, ceil_mode=True)
# what follows a convolution: how many of them are fused, as which activation and pool
RUNS = {
    "act-max": ((RELU, MAX), 2, "relu", "max"),
    "act-avg": ((SIGMOID, AVERAGE), 2, "sigmoid", "avg"),
    "act-sum": ((torch_nn.Tanh(), nn.SumPool2d(2)), 2, "tanh", "sum"),
    "max-act": ((MAX, RELU), 2, "relu", "max"),  # eq. 23: the same as act-max
    "avg-act": ((AVERAGE, RELU), 1, None, "avg"),  # not the same as act-avg
    "act": ((RELU,), 1, "relu", None),
    "max": ((MAX,), 1, None, "max"),
    "act-act": ((RELU, SIGMOID), 1, "relu", None),
    "max-max": ((MAX, MAX), 1, None, "max"),
    "act-norm": ((RELU, BATCH_NORM, MAX), 1, "relu", None),
    "act-ceil": ((RELU, CEIL), 1, "relu", None),
    "act-dilated": ((RELU, torch_nn.MaxPool2d(2, dilation=2)), 1, "relu", None),
    "act-pad": ((SIGMOID, torch_nn.AvgPool2d(3, 2, 1)), 2, "sigmoid", "avg"),
    "act-pad-not-counted": ((SIGMOID, torch_nn.AvgPool2d(3, 2, 1, count_include_pad=False)), 1, "sigmoid", None),
    "norm": ((BATCH_NORM, RELU, MAX), 0, None, None),
    "other-act": ((torch_nn.GELU(), MAX), 0, None, None),
    "ceil": ((CEIL,), 0, None, None),
    "nothing": ((), 0, None, None),
}


@pytest.mark.parametrize("followers, count, activation, pool", RUNS.values(), ids=RUNS)
def test_which_runs_are_fused(followers, count, activation, pool):
    model = torch_nn.Sequential(torch_nn.Conv2d(3, 4, 3, padding=1), *copy.deepcopy(followers)).double()
    kinds, wanted = types(model), model(IMAGES)
    wanted_grads = torch.autograd.grad(wanted.square().sum(), model[0].parameters())
    torch_manual_conv.convert(model, fuse=True)
    run = fused.run_of(list(model)[:3])
    assert count == (len(run.followers) if run else 0) and isinstance(model, fused.FusedRuns) == bool(count)
    if count:
        assert (run.stage["activation"], run.stage["pool"]) == (activation, pool)
    output = model(IMAGES)
    close(output, wanted, "output")
    grads = torch.autograd.grad(output.square().sum(), model[0].parameters())
    close(grads, wanted_grads, "gradients", ("weight", "bias"))
    assert types(torch_manual_conv.revert(model)) == kinds


def test_fused_vgg_and_alexnet():
    """Whole networks; every convolution of theirs stands in a run."""
    for constructor, size in (MODELS["alexnet"], (torchvision.models.vgg11, 32)):
        torch.manual_seed(0)
        theirs = constructor().double().eval()
        ours = torch_manual_conv.convert(copy.deepcopy(theirs), fuse=True)
        assert len(runs(ours.features)) == sum(type(m) is nn.Conv2d for m in ours.modules())
        images = torch.randn(2, 3, size, size, dtype=torch.float64)
        close(ours(images), theirs(images), "logits")


def test_a_convolution_used_twice():
    """In a run and outside of one: it stays a convolution."""
    conv = torch_nn.Conv2d(3, 3, 3, padding=1)
    model = torch_nn.Sequential(conv, torch_nn.ReLU(), conv, torch_nn.GELU()).double()
    wanted = model(IMAGES)
    close(torch_manual_conv.convert(model, fuse=True)(IMAGES), wanted, "output")
    assert runs(model) == [2] and type(conv) is nn.Conv2d


def test_fuse_leaves_a_forward_of_its_own_alone():
    class Features(torch_nn.Sequential):
        def forward(self, input):
            return [input := layer(input) for layer in self]

    model = Features(torch_nn.Conv2d(3, 3, 3), torch_nn.ReLU()).double()
    wanted = model(IMAGES)
    close(torch_manual_conv.convert(model, fuse=True)(IMAGES), wanted, "output")


def test_revert_returns_followers_in_the_present_mode():
    model = torch_manual_conv.convert(stage(), fuse=True).eval()
    assert not any(module.training for module in torch_manual_conv.revert(model).modules())


def test_hooks_still_run():
    model, seen = stage(), []
    model[1].register_forward_hook(lambda module, args, output: seen.append(output.shape))
    model[3].register_forward_pre_hook(lambda module, args: seen.append("before"))
    model[5].register_full_backward_hook(lambda module, grad_input, grad_output: seen.append("backward"))
    torch_manual_conv.convert(model, fuse=True)
    model(IMAGES.clone().requires_grad_()).sum().backward()
    assert seen == [(2, 4, 13, 11), "before", "backward"]


def test_shared_modules_stay_shared():
    conv, pool = torch_nn.Conv2d(3, 3, 3, padding=1), torch_nn.MaxPool2d(3, 1, 1)
    model = torch_nn.Sequential(conv, pool, conv, pool).double()
    wanted = model(IMAGES)
    torch_manual_conv.convert(model)
    assert model[0] is model[2] and model[1] is model[3] and type(conv) is nn.Conv2d
    close(model(IMAGES), wanted, "output")


def test_a_shared_activation_survives_fusing():
    """One Sigmoid object used by two stages: both are fused, revert puts the one object back twice."""
    act = torch_nn.Sigmoid()
    model = torch_nn.Sequential(
        torch_nn.Conv2d(3, 3, 3), act, torch_nn.MaxPool2d(2), torch_nn.Conv2d(3, 2, 2), act, torch_nn.AvgPool2d(2)
    ).double()
    wanted = model(IMAGES)
    close(torch_manual_conv.convert(model, fuse=True)(IMAGES), wanted, "output")
    torch_manual_conv.revert(model)
    assert model[1] is act and model[4] is act
    same_values(model(IMAGES), wanted, "output after revert")


def test_a_single_layer():
    layer = torch_nn.Conv2d(3, 2, 3)
    assert type(torch_manual_conv.convert(layer)) is nn.Conv2d
    assert type(torch_manual_conv.revert(layer)) is torch_nn.Conv2d


def test_twice_is_once():
    model = stage()
    wanted = model(IMAGES)
    for _ in range(2):
        torch_manual_conv.convert(model, fuse=True)
    close(model(IMAGES), wanted, "output")
    for _ in range(2):
        torch_manual_conv.revert(model)
    same_values(model(IMAGES), wanted, "output after revert")


def test_what_it_does_not_know_it_leaves_alone():
    class Scaled(torch_nn.Conv2d):
        def forward(self, input):
            return 2 * super().forward(input)

    parametrized = torch_nn.utils.parametrizations.weight_norm(torch_nn.Conv2d(3, 3, 3))
    model = torch_nn.ModuleDict(
        {
            "subclass": Scaled(3, 3, 3),
            "parametrized": parametrized,
            "complex": torch_nn.Conv2d(3, 3, 3, dtype=torch.complex64),
            "linear": torch_nn.Linear(3, 3),
            "pool3d": torch_nn.MaxPool3d(2),
            "activation": torch_nn.ReLU(),
        }
    )
    kinds = types(model)
    assert types(torch_manual_conv.convert(model)) == kinds


def test_attention_to_training_mode_and_device_moves():
    model = torch_manual_conv.convert(stage()).train()
    assert model[0].training and model.float()[0].weight.dtype == torch.float32
    assert model(IMAGES.float()).dtype == torch.float32
