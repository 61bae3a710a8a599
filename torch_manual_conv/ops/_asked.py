"""What a backward pass is for: torch.autograd.grad(loss, images) wants no weight's gradient."""

import torch

from ._register import is_compiling

will_execute = torch._C._will_engine_execute_node
# Where torch.autograd.grad is after a leaf, torch refuses to say so, with an exception that takes as long as some tiny
# convolutions. Where it has refused once it would again for each weight of a network, and for the next pass as well:
# that many convolutions then compute everything that requires a gradient, without asking.
PATIENCE = 64
left = 0


def asked(ctx):
    """ctx.needs_input_grad of input, weight and bias, less what this backward pass has no use for.

    needs_input_grad says what requires a gradient, whatever the pass is for; torch's own convolution asks the engine.
    """
    global left
    needs = input, weight, bias = ctx.needs_input_grad[:3]
    if is_compiling():
        return needs
    if left > 0:
        left -= 1
        return needs
    try:
        nodes = ctx.next_functions  # of the tensors
        weight = weight and will_execute(nodes[1][0])
        bias = bias and will_execute(nodes[2][0])
        if weight or bias:  # else the pass is for the input, or it would not be here
            input = input and will_execute(nodes[0][0])
    except RuntimeError:
        left = PATIENCE
        return needs
    return input, weight, bias
