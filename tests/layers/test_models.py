"""The models: torchvision's AlexNet key for key, the paper's numbers, one network from either kind of layers."""

import pytest
import torch
from comparisons import close, same_values
from torch.utils._python_dispatch import TorchDispatchMode

from torch_manual_conv import models

MODELS = {
    "alexnet": (models.alexnet, (4, 3, 63, 63)),
    "alexnet_2012": (models.alexnet_2012, (4, 3, 63, 63)),
    "lecture_net": (models.lecture_net, (4, 1, 28, 28)),
}


def build(name, **options):
    torch.manual_seed(0)
    factory, shape = MODELS[name]
    model = factory(num_classes=7, width=0.125, dropout=0.0, **options).double()
    return model, torch.randn(shape, dtype=torch.float64)


def outputs_and_gradients(model, input):
    logits = model(input)
    torch.nn.functional.cross_entropy(logits, torch.arange(len(input))).backward()
    return [logits.detach(), *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("activation", models.ACTIVATIONS)
@pytest.mark.parametrize("name", MODELS)
def test_same_network_from_either_layers(name, activation, batch_norm):
    ours, input = build(name, activation=activation, batch_norm=batch_norm, layers="manual")
    theirs, _ = build(name, activation=activation, batch_norm=batch_norm, layers="torch")
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    same_values(ours.state_dict().values(), theirs.state_dict().values(), "state", list(ours.state_dict()))
    # 1/sigma of a batch norm over few values magnifies rounding, up to 1/sqrt(1e-5) in each of seven layers
    results = [outputs_and_gradients(model, input) for model in (ours, theirs)]
    names = ["logits", *(f"gradient of {parameter}" for parameter, _ in ours.named_parameters())]
    close(*results, name, names, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("pool", ["max", "avg", "sum"])
def test_lecture_net_pools(pool):
    ours, input = build("lecture_net", pool=pool, layers="manual")
    theirs, _ = build("lecture_net", pool=pool, layers="torch")
    close(ours(input), theirs(input), "logits", rtol=1e-9, atol=1e-12)


def test_loads_torchvision_alexnet():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(3)
    theirs = torchvision.models.alexnet(num_classes=10).double().eval()
    torch.manual_seed(3)
    ours = models.alexnet(num_classes=10).double().eval()
    what = "the same seed gives torchvision's initial weights"
    same_values(ours.parameters(), theirs.parameters(), what, list(ours.state_dict()))
    torch.nn.init.normal_(theirs.features[0].bias)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    input = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        close(ours(input), theirs(input), "logits", rtol=1e-10, atol=1e-12)


def test_alexnet_2012_is_the_papers():
    with torch.device("meta"):
        model = models.alexnet_2012(init="torch")
    shapes = [tuple(m.weight.shape) for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert shapes == [(96, 3, 11, 11), (256, 48, 5, 5), (384, 256, 3, 3), (384, 192, 3, 3), (256, 192, 3, 3)]
    # 35 k + 307 k + 885 k + 664 k + 443 k weights of the convolutions, 37.8 M + 16.8 M + 4.1 M of the linear layers
    assert sum(p.numel() for p in model.parameters()) == 60_965_224


def test_paper_init():
    model = models.alexnet_2012(width=0.125)
    weighted = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert [m.bias.unique().item() for m in weighted] == [0, 1, 0, 1, 1, 1, 1, 0]
    assert weighted[5].weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("size, shape", [(5, (2, 7, 3, 4)), (4, (2, 3, 5)), (1, (1, 2, 2, 2)), (5, (3, 2, 2, 2))])
def test_local_response_norm_matches_torch(size, shape):
    options = dict(size=size, alpha=0.3, beta=0.75, k=2.0)
    one = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    other = one.detach().clone().requires_grad_()
    ours, theirs = models.LocalResponseNorm(**options)(one), torch.nn.LocalResponseNorm(**options)(other)
    close(ours, theirs, "output")
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    close(one.grad, other.grad, "grad_input")


def test_local_response_norm_is_the_papers():
    """b_i = a_i / (k + alpha * sum_j a_j^2)^beta, j from i - n/2 to i + n/2 within the channels; alpha unscaled."""
    k, n, alpha, beta = 2.0, 5, 1e-4, 0.75
    input = 50 * torch.randn(1, 8, 2, 2, dtype=torch.float64)
    lrn = models.Parts.of("manual", "relu", False).lrn()
    output = lrn(input)
    for i in range(8):
        window = input[:, max(0, i - n // 2) : i + n // 2 + 1]
        expected = input[:, i] / (k + alpha * window.square().sum(1)) ** beta
        close(output[:, i], expected, f"channel {i}")


def relative_gradient_of_first_layer(init):
    torch.manual_seed(0)
    model = models.alexnet(num_classes=10, width=0.25, activation="sigmoid", init=init, dropout=0.0)
    logits = model(torch.randn(8, 3, 63, 63))
    torch.nn.functional.cross_entropy(logits, torch.arange(8)).backward()
    weight = model.features[0].weight
    return (weight.grad.norm() / weight.norm()).item()


def test_sigmoid_aware_init_keeps_gradients_alive():
    assert relative_gradient_of_first_layer("torch") < 1e-5
    assert relative_gradient_of_first_layer("sigmoid-aware") > 1e-3
    assert relative_gradient_of_first_layer("auto") == relative_gradient_of_first_layer("sigmoid-aware")


class RecordOps(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def torch_layer_ops(model, input):
    """Names of the convolutions, poolings and sigmoids of torch that a forward and backward pass runs."""
    with RecordOps() as record:
        outputs_and_gradients(model, input)
    words = ("conv", "pool", "sigmoid", "im2col", "unfold")
    return {name for name in record.names if any(w in name for w in words) and not name.startswith("tmc")}


@pytest.mark.parametrize("name", MODELS)
def test_no_torch_convolution_pooling_or_sigmoid_runs(name):
    model, input = build(name, activation="sigmoid")
    assert torch_layer_ops(model, input) == set()
    model, input = build(name, activation="sigmoid", layers="torch")
    assert torch_layer_ops(model, input), "the check itself sees torch's operators"


@pytest.mark.parametrize("option", ["activation", "layers", "init", "pool"])
def test_rejects_unknown_choices(option):
    with pytest.raises(ValueError, match=f"{option} must be one of .*; got 'gelu'"):
        models.lecture_net(**{option: "gelu"})
