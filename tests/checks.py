"""check_op: one call holds an operator against torch.

    values         forward and every gradient against torch in float64, for contiguous, channels_last, strided,
                   transposed and expanded tensors, through both doors, without a batch and with an empty one
    derivatives    gradcheck and gradgradcheck, forward-mode and batched gradients included (float64 only)

check_registration: torch.library.opcheck of an operator's raw op and of every op that its derivatives call. It takes
seconds and does not see values, so that one or two shapes an operator do.

An error is the largest difference divided by the reference's largest magnitude (comparisons.py).
"""

from unittest import mock

import pytest
import torch
from comparisons import RecordOps, check_close, naming_kernels, same_values

# A result that is mostly zeros proves nothing: this share must not be zero. Gradients may be sparse by nature (max
# pooling): of them, a tenth as many values as the output has must not be zero.
TRUSTED_NONZEROS, TRUSTED_GRADIENT_NONZEROS = 0.7, 0.1
# Numerical Jacobians cost two evaluations an element: above this many, gradcheck projects onto random directions.
SLOW_GRADCHECK_ELEMENTS = 150


def check_op(ours, twin, *inputs, dtype=torch.float64, device="cpu", terms=1, batched=True, contiguous=False):
    """Holds ours(*inputs) against twin(*inputs).

    Args:
        ours, twin: functions of the tensors alone; twin is torch's.
        inputs: float64 tensors, or None where an argument is left out; the first is the image batch.
        terms: how many products the longest sum of the forward or of a gradient adds up.
        batched: the first input has a batch dimension, which may be empty or left out.
        contiguous: the results are contiguous; else they are laid out in memory as torch's.
    """
    inputs = [None if x is None else x.to(device, dtype) for x in inputs]
    for layout in LAYOUTS.values():
        check_values(ours, twin, [None if x is None else layout(x) for x in inputs], terms, contiguous=contiguous)
    if batched:
        images, *rest = inputs
        check_values(ours, twin, [images[0], *rest], terms)
        check_values(ours, twin, [images[:0], *rest], terms, trusted=False)
    if dtype == torch.float64:
        check_derivatives(ours, inputs)


# ---- Layouts: how a tensor's values lie in memory.


def _channels_last(x):
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats.get(x.dim(), torch.contiguous_format))


def _strided(x):
    """Every second element of memory that holds NaN in between."""
    holder = torch.full((*x.shape, 2), torch.nan, dtype=x.dtype, device=x.device)
    holder[..., 1] = x
    return holder[..., 1]


def _transposed(x):
    return x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 1 else x


def _expanded(x):
    """One sample (or filter) seen many times."""
    return x[:1].expand(x.shape) if x.dim() > 0 else x


LAYOUTS = {
    "contiguous": torch.Tensor.contiguous,
    "channels_last": _channels_last,
    "strided": _strided,
    "transposed": _transposed,
    "expanded": _expanded,
}
DENSE = {name: LAYOUTS[name] for name in ("contiguous", "channels_last")}  # what kernels take as it is
in_both_layouts = pytest.mark.parametrize("layout", DENSE.values(), ids=DENSE)


# ---- Values.


def check_values(ours, twin, inputs, terms=1, trusted=True, contiguous=False):
    """Forward and gradients of ours against twin in float64, and no worse than twin in the inputs' own dtype."""
    with naming_kernels(ours, inputs):
        compare_values(ours, twin, inputs, terms, trusted, contiguous)


def compare_values(ours, twin, inputs, terms, trusted, contiguous):
    results, grads = run(ours, inputs)
    exact_results, exact_grads = run(twin, [None if x is None else x.double() for x in inputs])
    their_results, their_grads = run(twin, inputs)
    outputs = [f"output {i}" for i in range(len(results))]
    given = [i for i, x in enumerate(inputs) if x is not None]
    gradients = [f"grad of input {i}, {kind} grad_output" for kind in ("random", "expanded") for i in given]
    for what, mine, exact, theirs in zip(outputs, results, exact_results, their_results, strict=True):
        kinds = [(x.dtype, x.device, x.shape) for x in (mine, theirs)]
        assert kinds[0] == kinds[1], f"{what}: {kinds[0]}, torch's {kinds[1]}"
        wanted = theirs.contiguous() if contiguous else theirs
        orders = memory_order(mine), memory_order(wanted)
        assert orders[0] == orders[1], f"{what}: strides {mine.stride()}, torch's are {theirs.stride()}"
        check_close(mine, exact, theirs, terms, trusted * TRUSTED_NONZEROS * mine.numel(), what)
    for what, mine, exact, theirs in zip(gradients, grads, exact_grads, their_grads, strict=True):
        nonzeros = trusted * TRUSTED_GRADIENT_NONZEROS * min(mine.numel(), results[0].numel())
        check_close(mine, exact, theirs, terms, nonzeros, what)
    with traced():
        traced_results, traced_grads = run(ours, inputs)
    for what, mine, same in zip(
        [*outputs, *gradients], [*results, *grads], [*traced_results, *traced_grads], strict=True
    ):
        if not mine.isnan().any():
            same_values(same, mine, f"{what}: the operator's two doors")


def run(function, inputs):
    """(results, gradients) as lists; gradients for a random and for an expanded grad_output."""
    leaves = [None if x is None else x.detach().requires_grad_() for x in inputs]
    results = as_list(function(*leaves))
    differentiable = [x for x in leaves if x is not None]
    output = results[0]
    generator = torch.Generator().manual_seed(output.numel())
    random = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    expanded = torch.full((), 0.5, dtype=output.dtype, device=output.device).expand(output.shape)
    grads = []
    for grad_output in (random, expanded):
        grads += torch.autograd.grad(output, differentiable, grad_output, retain_graph=True)
    for leaf, grad in zip(2 * differentiable, grads, strict=True):
        assert (grad.dtype, grad.shape) == (leaf.dtype, leaf.shape)
    return [result.detach() for result in results], grads


def as_list(results):
    return list(results) if isinstance(results, tuple) else [results]


def memory_order(tensor):
    """The strides that matter: those of axes with more than one entry."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1 and tensor.numel()]


def traced():
    """Inside, our functions take the door they take under torch.compile: the registered ops."""
    return mock.patch("torch.compiler.is_compiling", lambda: True)


# ---- Derivatives.


def check_derivatives(ours, inputs):
    """First and second derivatives against finite differences: reverse, forward, forward over reverse, batched."""
    leaves = [None if x is None else x.detach().clone().requires_grad_() for x in inputs]

    def function(*tensors):
        return as_list(ours(*tensors))[0]

    fast = sum(x.numel() for x in leaves if x is not None) > SLOW_GRADCHECK_ELEMENTS
    torch.autograd.gradcheck(
        function,
        leaves,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        fast_mode=fast,
    )
    torch.autograd.gradgradcheck(
        function, leaves, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True, fast_mode=True
    )


# ---- Registration.


def ops_called(ours, inputs):
    """{op: arguments} of a forward, backward and second backward of ours(*inputs)."""
    with RecordOps() as record:
        leaves = [None if x is None else x.detach().requires_grad_() for x in inputs]
        output = as_list(ours(*leaves))[0]
        leaves = [x for x in leaves if x is not None]
        grad_output = torch.ones_like(output, requires_grad=True)
        grads = torch.autograd.grad(output, leaves, grad_output, create_graph=True)
        linear = [g for g in grads if g.requires_grad]
        torch.autograd.grad(linear, [grad_output], [torch.ones_like(g) for g in linear])
    return record.calls


def check_registration(calls):
    """opcheck of {op: arguments}: schema, fake, gradient and compiled behaviour, for dense and transposed tensors."""
    for op, args in calls.items():
        for layout in (torch.Tensor.contiguous, _transposed):
            args = [layout(a.detach()) if isinstance(a, torch.Tensor) else a for a in args]
            differentiable = [
                a.clone().requires_grad_() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args
            ]
            torch.library.opcheck(op, args, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))
            torch.library.opcheck(op, differentiable, test_utils="test_aot_dispatch_dynamic")


# ---- Memory.


def saved_tensors(forward):
    """The tensors that forward() keeps for backward."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        forward()
    return saved
