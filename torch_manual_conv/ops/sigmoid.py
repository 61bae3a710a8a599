"""Sigmoid and its gradient (docs/derivations.md, eq. 11 and 12)."""

import torch

from ._elementwise import elementwise, elementwise_vmap
from ._register import check_tensor, torch_computes


class SigmoidFunction(torch.autograd.Function):
    """y = 1 / (1 + exp(-x)). Saves: y."""

    @staticmethod
    def forward(input):
        return torch.ops.tmc.sigmoid(input)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx, grad_output):
        (output,) = ctx.saved_tensors
        return sigmoid_grad_input(grad_output, output)

    @staticmethod
    def jvp(ctx, input_tangent):
        (output,) = ctx.saved_tensors
        return sigmoid_grad_input(input_tangent, output)  # an elementwise derivative is its own transpose

    @staticmethod
    def vmap(info, in_dims, *args):
        return elementwise_vmap(sigmoid_op, info, in_dims, *args)


class SigmoidGradInputFunction(torch.autograd.Function):
    """grad_input = grad_output * (1 - y) * y. Saves: grad_output, y. Its derivatives: eq. 13."""

    @staticmethod
    def forward(grad_output, output):
        return torch.ops.tmc.sigmoid_grad_input(grad_output, output)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        grad_output, output = ctx.saved_tensors
        for_grad_output = sigmoid_grad_input(grad, output) if ctx.needs_input_grad[0] else None
        for_output = grad * grad_output * (1 - 2 * output) if ctx.needs_input_grad[1] else None
        return for_grad_output, for_output

    @staticmethod
    def jvp(ctx, grad_output_tangent, output_tangent):
        grad_output, output = ctx.saved_tensors
        tangent = torch.zeros_like(output)
        if grad_output_tangent is not None:
            tangent = tangent + sigmoid_grad_input(grad_output_tangent, output)
        if output_tangent is not None:
            tangent = tangent + output_tangent * grad_output * (1 - 2 * output)
        return tangent

    @staticmethod
    def vmap(info, in_dims, *args):
        return elementwise_vmap(sigmoid_grad_input, info, in_dims, *args)


sigmoid_op = elementwise("sigmoid", SigmoidFunction, saves=("output", "the slope is (1 - y) y (eq. 12)"))
sigmoid_grad_input = elementwise("sigmoid_grad_input", SigmoidGradInputFunction)


def sigmoid(input):
    """The logistic function 1 / (1 + exp(-input)), elementwise.

    Args:
        input: any shape and strides.
    Returns:
        A tensor of the same shape, dtype and strides, with values in [0, 1].
    Raises:
        TypeError: for what is no tensor.

    Equivalent to: torch.sigmoid(input).
    Saves for backward: the output.
    """
    if torch_computes(input):
        return torch.sigmoid(input)
    check_tensor("sigmoid", "input", input)
    return sigmoid_op(input)
