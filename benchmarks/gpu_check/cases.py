"""One small case for each way through the kernels: what runs a hundred times, and under compute-sanitizer."""

import torch

import torch_manual_conv.functional as F

# name: (function, shapes of its tensors, the first with a batch). Channels that fill vectors of 16 bytes and channels
# that do not; windows that the kernels have a fixed form for, and others; sizes that leave tiles half empty.
CASES = {
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding=1), ((3, 64, 13, 13), (96, 64, 3, 3), (96,))),
    # So many pixels that an H100 is given the largest blocks (csrc/cuda/gemm/mma_block.cuh).
    "conv2d wide": (lambda x, w, b: F.conv2d(x, w, b, padding=1), ((3, 16, 120, 119), (256, 16, 3, 3), (256,))),
    "conv2d long": (lambda x, w: F.conv2d(x, w, padding=1), ((3, 32, 120, 119), (192, 32, 3, 3))),
    "conv2d first": (lambda x, w, b: F.conv2d(x, w, b, 4, 2), ((3, 3, 43, 47), (64, 3, 11, 11), (64,))),
    "conv2d 5x5": (lambda x, w: F.conv2d(x, w, padding=2), ((2, 32, 15, 14), (64, 32, 5, 5))),
    "conv2d odd": (lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=2), ((3, 13, 17, 19), (37, 13, 5, 3), (37,))),
    "conv2d groups": (lambda x, w: F.conv2d(x, w, padding=1, groups=2), ((3, 32, 9, 11), (48, 16, 3, 3))),
    "conv2d dilated": (lambda x, w: F.conv2d(x, w, padding=2, dilation=2), ((2, 16, 12, 13), (24, 16, 3, 3))),
    "max_pool2d 3 2": (lambda x: F.max_pool2d(x, 3, 2), ((3, 64, 13, 15),)),
    "max_pool2d 3 2 padded": (lambda x: F.max_pool2d(x, 3, 2, 1), ((3, 24, 14, 13),)),
    "max_pool2d 2 2": (lambda x: F.max_pool2d(x, 2), ((3, 64, 13, 14),)),
    "max_pool2d 3 1": (lambda x: F.max_pool2d(x, 3, 1, 1), ((3, 16, 9, 9),)),
    "max_pool2d odd": (lambda x: F.max_pool2d(x, 3, 2, 1), ((3, 13, 11, 9),)),
    "max_pool2d wide": (lambda x: F.max_pool2d(x, 17), ((2, 16, 40, 35),)),
    "avg_pool2d 3 2": (lambda x: F.avg_pool2d(x, 3, 2, 1), ((3, 64, 13, 15),)),
    "avg_pool2d 2 2": (lambda x: F.avg_pool2d(x, 2), ((3, 13, 12, 14),)),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, (7, 6)), ((3, 16, 15, 13),)),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (6, 6)), ((3, 64, 13, 13),)),
    "sigmoid": (F.sigmoid, ((3, 13, 17, 5),)),
    "conv_act_pool2d": (
        lambda x, w, b: F.conv_act_pool2d(
            x, w, b, padding=1, activation="sigmoid", pool="max", pool_size=3, pool_stride=2
        ),
        ((2, 16, 13, 13), (32, 16, 3, 3), (32,)),
    ),
    # Its image needs no gradient: the gradient of its map is not written.
    "conv_act_pool2d first": (
        lambda x, w, b: F.conv_act_pool2d(
            x.detach(), w, b, 4, 2, activation="relu", pool="max", pool_size=3, pool_stride=2
        ),
        ((3, 3, 63, 67), (64, 3, 11, 11), (64,)),
    ),
}
# If time does not suffice for all, the last ones are left out.
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def tensors(name, dtype, device, layout):
    """Made on the CPU, so that under compute-sanitizer hardly a kernel but ours runs."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator).to(dtype) for shape in CASES[name][1]]
    form = LAYOUTS[layout]
    return [(t.contiguous(memory_format=form) if t.dim() == 4 else t).to(device) for t in made]


def results(name, operands):
    """Output, then the gradient of every operand, for a grad_output that any part of the batch would get too. A
    gradient that nobody needs is zero."""
    leaves = [t.detach().requires_grad_() for t in operands]
    output = CASES[name][0](*leaves)
    row = torch.linspace(-1, 1, output[0].numel(), device=output.device).reshape(output[0].shape).to(output.dtype)
    return output.detach(), *torch.autograd.grad(output, leaves, row.expand(output.shape), materialize_grads=True)
