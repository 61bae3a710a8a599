"""What a fused stage is made of: its arguments, and the linear maps and slopes that its derivatives are composed of
(docs/derivations.md, eq. 21-23)."""

from typing import NamedTuple

import torch

from .conv2d_op import conv2d_grad_bias, conv2d_grad_input, conv2d_grad_weight, conv2d_op, conv2d_output_size
from .pool2d_op import avg_pool2d_grad_input, avg_pool2d_op, max_pool2d_grad_input, max_pool2d_select
from .sigmoid import sigmoid_grad_input, sigmoid_op

# o = g(z); dJ/dz from dJ/do and o; what the slope changes by with o (None: not at all).
ACTIVATIONS = {
    "none": (lambda z: z, lambda grad, o: grad, None),
    "sigmoid": (sigmoid_op, sigmoid_grad_input, lambda o: 1 - 2 * o),
    "relu": (torch.relu, lambda grad, o: grad.masked_fill(o <= 0, 0), None),
    "tanh": (torch.tanh, lambda grad, o: grad * (1 - o * o), lambda o: -2 * o),
}
POOLS = ("none", "max", "avg", "sum")


class Stage(NamedTuple):
    """The arguments that follow the tensors in both ops, in their order."""

    geometry: list
    groups: int
    activation: str
    pool: str
    window: list
    precision: str

    @property
    def conv(self):
        return self.geometry, self.groups, self.precision

    @property
    def pooling(self):
        """The pool's arguments, as the ops max_pool2d and avg_pool2d take them."""
        if self.pool == "max":
            return [*self.window, 1, 1], False
        return self.window, False, True, 1 if self.pool == "sum" else None

    @property
    def averages(self):
        return self.pool in ("avg", "sum")

    @property
    def activates_output(self):
        """Whether the slope is written with the output (eq. 23)."""
        return self.activation != "none" and not self.averages

    @property
    def activates_map(self):
        """Whether the slope is written with the map before the pool."""
        return self.activation != "none" and self.averages

    # ---- The activation.

    def activated(self, input, weight, bias):
        return ACTIVATIONS[self.activation][0](conv2d_op(input, weight, bias, *self.conv))

    def slope(self, grad, o):
        """grad * g'(o)."""
        return ACTIVATIONS[self.activation][1](grad, o)

    def curvature(self, tangent, grad, o):
        """The change of slope(grad, o) as o changes by the tangent, or None."""
        bend = ACTIVATIONS[self.activation][2]
        return None if bend is None else tangent * grad * bend(o)

    # ---- The pool: both are linear, each other's transposes.

    def gather(self, z, winners):
        """The pooled map of z, whatever wins: eq. 7, 10."""
        if self.pool == "none":
            return z
        return max_pool2d_select(z, winners, *self.pooling) if self.pool == "max" else avg_pool2d_op(z, *self.pooling)

    def spread(self, grad, winners, sizes):
        """Each pooled gradient to the positions that it came from: eq. 8, 9."""
        if self.pool == "none":
            return grad
        size = self.map_size(sizes)
        if self.pool == "max":
            return max_pool2d_grad_input(grad, winners, size, *self.pooling)
        return avg_pool2d_grad_input(grad, size, *self.pooling)

    def map_gradient(self, grad_output, activated, winners, sizes):
        """dJ/dz from dJ/dy."""
        if self.pool == "max":
            return self.spread(self.slope(grad_output, activated), winners, sizes)
        return self.slope(self.spread(grad_output, winners, sizes), activated)

    # ---- The convolution. sizes: the shapes of input and weight.

    def map_size(self, sizes):
        input_size, weight_size = sizes
        return conv2d_output_size(input_size[2:], weight_size[2:], self.geometry)

    def conv_gradients(self, grad_z, input, weight, sizes, wanted):
        """dJ/dx, dJ/dw, dJ/db from dJ/dz (eq. 5, 3, 4); None where not wanted."""
        return [
            conv2d_grad_input(grad_z, weight, sizes[0][2:], *self.conv) if wanted[0] else None,
            conv2d_grad_weight(grad_z, input, sizes[1][2:], *self.conv) if wanted[1] else None,
            conv2d_grad_bias(grad_z) if wanted[2] else None,
        ]

    def conv_tangent(self, input, weight, input_tangent, weight_tangent, bias_tangent, sizes):
        """How z changes with x, w and b (eq. 15); None if none of them does."""
        by_bias = None
        if bias_tangent is not None:
            by_bias = bias_tangent.view(-1, 1, 1).expand(sizes[0][0], -1, *self.map_size(sizes))
        return total(
            None if input_tangent is None else conv2d_op(input_tangent, weight, None, *self.conv),
            None if weight_tangent is None else conv2d_op(input, weight_tangent, None, *self.conv),
            by_bias,
        )


def total(*terms):
    """The sum of those that are not None."""
    terms = [term for term in terms if term is not None]
    return sum(terms[1:], terms[0]) if terms else None
