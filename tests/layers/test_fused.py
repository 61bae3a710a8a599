"""Whatever is done to a model, before it is fused or afterwards: it computes what it computed without fusing."""

import copy
import io
import logging
import pickle
import types
from contextlib import contextmanager

import pytest
import torch
import torch.nn.utils.prune
from comparisons import close, same_values
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations

import torch_manual_conv as tmc
from torch_manual_conv.fused import FusedRuns, Run, split

TF = torch.nn.functional
IMAGES = torch.arange(2 * 3 * 12 * 12, dtype=torch.float64).reshape(2, 3, 12, 12).sin()


class Stage(nn.Sequential):
    """A subclass with the forward of its parent."""

    def layers(self):
        return len(self)


def make(activation=nn.ReLU, pool=nn.MaxPool2d):
    torch.manual_seed(0)
    first = Stage(nn.Conv2d(3, 6, 3, padding=1), activation(), pool(2))
    return nn.Sequential(first, nn.Sequential(nn.Conv2d(6, 4, 3), nn.Sigmoid()), nn.Flatten(1)).double()


def doubled(module, args, output):
    return 2 * output


def method(name, function):
    """Replaces a method of one instance."""
    return lambda layer: setattr(layer, name, types.MethodType(function, layer))


def first(change):
    return lambda net: change(net[0])


def at(place, change):
    return lambda net: change(net[0][place])


def weight_norm(net):
    parametrizations.weight_norm(net[0][0]).parametrizations.weight.original0.data *= 2


def spectral_norm(net):
    torch.manual_seed(1)
    torch.nn.utils.spectral_norm(net[0][0]).eval()  # in training every call changes the weight


def swap(place, layer):
    return lambda net: net[0].__setitem__(place, layer)


def new_weight(net):
    torch.manual_seed(1)
    net[0][0].weight = nn.Parameter(torch.randn(6, 3, 3, 3, dtype=torch.float64))


CHANGES = {
    "nothing": lambda net: None,
    # hooks
    "forward hook of the convolution": at(0, lambda layer: layer.register_forward_hook(doubled)),
    "forward hook of the activation": at(1, lambda layer: layer.register_forward_hook(doubled)),
    "forward hook of the pool": at(2, lambda layer: layer.register_forward_hook(doubled)),
    "forward hook of the Sequential": first(lambda layer: layer.register_forward_hook(doubled)),
    "hook in place": first(lambda layer: layer.register_forward_hook(lambda module, args, output: output.mul_(2))),
    "pre-hook": at(2, lambda layer: layer.register_forward_pre_hook(lambda module, args: (2 * args[0],))),
    "backward hook": at(1, lambda layer: layer.register_full_backward_hook(lambda module, gi, go: (2 * gi[0],))),
    "backward pre-hook": at(2, lambda layer: layer.register_full_backward_pre_hook(lambda module, go: (2 * go[0],))),
    "hook of the weight": lambda net: net[0][0].weight.register_hook(lambda grad: 2 * grad),
    # methods of their own
    "convolution._conv_forward": at(0, method("_conv_forward", lambda s, x, w, b: TF.conv2d(x, 2 * w, b, padding=1))),
    "convolution.forward": at(0, method("forward", lambda s, x: TF.conv2d(x, s.weight, padding=1))),
    "activation.forward": at(1, method("forward", lambda s, x: x.clamp(0, 0.1))),
    "pool.forward": at(2, method("forward", lambda s, x: TF.avg_pool2d(x, 2))),
    "pool._call_impl": at(2, method("_call_impl", lambda s, x: TF.avg_pool2d(x, 2))),
    "Sequential.forward": first(method("forward", lambda s, x: s[2](s[0](x)))),
    # weights
    "weight_norm": weight_norm,
    "old weight_norm": at(0, torch.nn.utils.weight_norm),
    "spectral_norm": spectral_norm,
    "pruned": at(0, lambda layer: torch.nn.utils.prune.l1_unstructured(layer, "weight", 0.5)),
    "another weight": new_weight,
    "scaled weight": at(0, lambda layer: layer.weight.data.mul_(2)),
    "frozen": at(0, lambda layer: layer.bias.requires_grad_(False)),
    # other layers, other arguments
    "another activation": swap(1, nn.Tanh()),
    "another pool": swap(2, nn.AvgPool2d(2)),
    "another convolution": swap(0, nn.Conv2d(3, 6, 5, padding=2, bias=False).double()),
    "no activation": lambda net: net[0].__delitem__(1),
    "a layer more": lambda net: net[0].insert(1, nn.BatchNorm2d(6).double()),
    "in place afterwards": lambda net: net[0].append(nn.Hardtanh(-0.1, 0.1, inplace=True)),
    "the pool's stride": at(2, lambda layer: setattr(layer, "stride", 1)),
    "the pool's ceil_mode": at(2, lambda layer: (setattr(layer, "kernel_size", 5), setattr(layer, "ceil_mode", True))),
    "the convolution's padding": at(0, lambda layer: setattr(layer, "padding", (0, 0))),
    "the first layers alone": lambda net: net.__setitem__(0, net[0][:2]),
    "without its last layer": lambda net: net[0].pop(2),
    "to eval": lambda net: net.eval(),
}


def outcome(net):
    output = net(IMAGES)
    parameters = [p for p in net.parameters() if p.requires_grad]
    grads = torch.autograd.grad(output.square().sum(), parameters, allow_unused=True)
    return output, [torch.zeros_like(p) if grad is None else grad for p, grad in zip(parameters, grads, strict=True)]


def agree(net, twin):
    (output, grads), (wanted, wanted_grads) = outcome(net), outcome(twin)
    close(output, wanted, "output")
    close(grads, wanted_grads, "gradients")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change(change):
    """Made before fusing or after it; and after revert the model is what the same changes make of torch's."""
    twin, before, after = make(), make(), make()
    change(twin)
    change(before)
    tmc.convert(before, fuse=True)
    tmc.convert(after, fuse=True)
    change(after)
    for net in (before, after):
        agree(net, twin)
        tmc.revert(net)
        agree(net, twin)
        kinds = [type(module).__qualname__ for module in net.modules()]
        assert kinds == [type(module).__qualname__ for module in twin.modules()]
        assert not any(isinstance(module, FusedRuns) for module in net.modules())
        assert [module.training for module in net.modules()] == [module.training for module in twin.modules()]
        assert list(net.state_dict()) == list(twin.state_dict())


@contextmanager
def replaced(owner, name, function):
    original = getattr(owner, name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, original)


METHODS = {
    "activation": (nn.ReLU, "forward", lambda self, x: x.clamp(0, 0.1)),
    "convolution": (nn.Conv2d, "forward", lambda self, x: TF.conv2d(x, self.weight, padding=self.padding)),
    "Sequential": (nn.Sequential, "forward", lambda self, x: self[len(self) - 1](self[0](x))),
    # Our classes have these themselves, so only what is converted later can heed them.
    "pool": (nn.MaxPool2d, "forward", lambda self, x: TF.avg_pool2d(x, 2)),
    "_conv_forward": (nn.Conv2d, "_conv_forward", lambda self, x, w, b: TF.conv2d(x, 2 * w, b, padding=self.padding)),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_torchs_class(name):
    kind, method, function = METHODS[name]
    before, after, twin = tmc.convert(make(), fuse=True), make(), make()
    with replaced(kind, method, function):
        agree(tmc.convert(after, fuse=True), twin)
        if name in ("activation", "convolution", "Sequential"):
            agree(before, twin)


def test_hooks_of_all_modules():
    net, seen = tmc.convert(make(), fuse=True), []
    wanted = make()(IMAGES)
    handle = register_module_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    try:
        close(net(IMAGES), wanted, "output")
    finally:
        handle.remove()
    assert " ".join(seen) == "Conv2d ReLU MaxPool2d FusedStage Conv2d Sigmoid FusedSequential Flatten Sequential"


def saved_and_loaded(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "torch.save": saved_and_loaded,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "fx": torch.fx.symbolic_trace,
    "export": lambda net: torch.export.export(net, (IMAGES,)).module(),
    "compile": lambda net: torch.compile(net, backend="aot_eager", fullgraph=True),
    "jit.trace": lambda net: torch.jit.trace(net, (IMAGES,)),
    "checkpoint": lambda net: lambda x: torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False),
    "functional_call": lambda net: lambda x: torch.func.functional_call(net, dict(net.named_parameters()), (x,)),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy(copied):
    close(copied(tmc.convert(make(), fuse=True))(IMAGES), make()(IMAGES), "output")


def test_a_copy_is_fused_and_reverts():
    net = pickle.loads(pickle.dumps(tmc.convert(make(), fuse=True)))
    assert net[0].layers() == 3 and [isinstance(part, Run) for part in split(net[0])] == [True]
    assert type(tmc.revert(net)[0]) is Stage and type(net[1]) is nn.Sequential


def test_a_replica_computes_with_its_own_weights():
    """torch.nn.DataParallel's: a shallow copy whose parameters are tensors."""
    net = tmc.convert(make(), fuse=True)[0]
    replica, conv = net._replicate_for_data_parallel(), net[0]._replicate_for_data_parallel()
    conv.weight, conv.bias = 2 * net[0].weight, net[0].bias
    replica._modules["0"] = conv
    close(replica(IMAGES), TF.max_pool2d(TF.conv2d(IMAGES, conv.weight, conv.bias, padding=1).relu(), 2), "output")


def test_layers_one_by_one():
    """Feature extractors walk over the layers themselves."""
    net, twin = tmc.convert(make(), fuse=True), make()
    x = wanted = IMAGES
    for layer, theirs in zip(net[0], twin[0], strict=True):
        x, wanted = layer(x), theirs(wanted)
        close(x, wanted, "output")


STAGES = [(a, p) for a in (None, "sigmoid", "relu", "tanh") for p in (None, "max", "avg", "sum")]


@pytest.mark.parametrize("activation, pool", STAGES, ids=str)
@pytest.mark.parametrize("image", [IMAGES, IMAGES[0]], ids=["batch", "one"])
def test_changed_in_place(activation, pool, image):
    """Where torch's chain of layers allows it, and gives the gradients of that chain."""
    torch.manual_seed(0)
    weight, bias = torch.randn(4, 3, 3, 3).double().requires_grad_(), torch.randn(4).double().requires_grad_()

    def chain(x):
        z = TF.conv2d(x, weight, bias)
        o = z if activation is None else getattr(torch, activation)(z)
        if pool is None:
            return o
        return (
            TF.max_pool2d(o, 2) if pool == "max" else TF.avg_pool2d(o, 2, divisor_override=1 if pool == "sum" else None)
        )

    def gradients(function, change):
        return torch.autograd.grad(change(function(image)).square().sum(), (weight, bias))

    stage = lambda x: tmc.functional.conv_act_pool2d(x, weight, bias, activation=activation, pool=pool)  # noqa: E731
    for change in (lambda y: y.mul_(0.5), lambda y: y.add_(y.detach().flip(0)), lambda y: y.zero_().add_(1)):
        wanted = gradients(chain, lambda y, change=change: change(y.clone()))
        try:
            grads = gradients(stage, change)
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                gradients(chain, change)
        else:
            close(grads, wanted, "gradients")


@pytest.mark.parametrize("act", [nn.ReLU, nn.Sigmoid, nn.Tanh])
def test_dropout_in_place(act):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), act(), nn.MaxPool2d(2), nn.Dropout(0.5, inplace=True)).double()
    outcomes = []
    for _ in range(2):
        torch.manual_seed(0)
        outcomes.append(outcome(net))
        tmc.convert(net, fuse=True)
    close(outcomes[1][0], outcomes[0][0], "output")
    close(outcomes[1][1], outcomes[0][1], "gradients")


def test_recompute():
    net = tmc.convert(make(pool=nn.AvgPool2d), fuse=True)
    net[0][0].save = "recompute"
    agree(net, make(pool=nn.AvgPool2d))
    net[0][0].save = "an attribute of somebody else's"
    agree(net, make(pool=nn.AvgPool2d))


def test_lazy_layers_become_ours():
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.LazyConvTranspose2d(2, 3)).double()
    twin = copy.deepcopy(net)
    tmc.convert(net)
    for model in (net, twin):
        torch.manual_seed(0)
        model(IMAGES)
    assert [type(net[i]) for i in (0, 2)] == [tmc.nn.Conv2d, tmc.nn.ConvTranspose2d]
    close(net(IMAGES), twin(IMAGES), "output")
    tmc.revert(net)
    same_values(net(IMAGES), twin(IMAGES), "output after revert")
    lazy = tmc.revert(tmc.convert(nn.LazyConv2d(4, 3)))
    lazy(IMAGES.float())
    assert type(lazy) is nn.Conv2d


def test_convert_tells_what_it_changed(caplog):
    net = make()
    net.append(parametrizations.weight_norm(nn.Conv1d(1, 1, 1)))
    with caplog.at_level(logging.INFO, "torch_manual_conv"):
        tmc.convert(net)
    assert caplog.messages == ["convert: changed 2 Conv2d, 1 MaxPool2d, 1 Sigmoid; left alone 1 ParametrizedConv1d"]
