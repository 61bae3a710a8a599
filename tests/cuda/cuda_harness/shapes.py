"""What the launchers are told of a problem: csrc/conv2d.h, pool2d.h, conv_act_pool2d.h and elementwise.h as ctypes."""

import ctypes
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Conv:
    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    stride: tuple = (1, 1)
    pads: tuple = (0, 0, 0, 0)  # top, bottom, left, right
    dilation: tuple = (1, 1)
    groups: int = 1

    @property
    def p(self):
        return (self.h + sum(self.pads[:2]) - self.dilation[0] * (self.r - 1) - 1) // self.stride[0] + 1

    @property
    def q(self):
        return (self.w + sum(self.pads[2:]) - self.dilation[1] * (self.s - 1) - 1) // self.stride[1] + 1

    @property
    def sizes(self):
        """Of input, weight and output."""
        return (
            (self.n, self.c, self.h, self.w),
            (self.k, self.c // self.groups, self.r, self.s),
            (self.n, self.k, self.p, self.q),
        )

    def struct(self):
        extents = self.n, self.c, self.h, self.w, self.k, self.r, self.s, self.p, self.q
        return (ctypes.c_int64 * 18)(*extents, *self.stride, *self.pads, *self.dilation, self.groups)


@dataclass(frozen=True)
class Pool:
    n: int
    c: int
    input_size: tuple
    output_size: tuple
    kernel: tuple
    stride: tuple = (0, 0)  # 0: adaptive
    pad: tuple = (0, 0)
    dilation: tuple = (1, 1)

    @property
    def sizes(self):
        """Of input and output."""
        return (self.n, self.c, *self.input_size), (self.n, self.c, *self.output_size)

    @property
    def winner_dtype(self):
        return torch.uint8 if self.kernel[0] * self.kernel[1] <= 256 else torch.int32

    def struct(self):
        axes = zip(self.input_size, self.output_size, self.kernel, self.stride, self.pad, self.dilation, strict=True)
        return (ctypes.c_int64 * 14)(self.n, self.c, *(value for axis in axes for value in axis))


ACTIVATIONS, POOLINGS = ("none", "sigmoid", "relu", "tanh"), ("none", "max", "avg", "sum")


@dataclass(frozen=True)
class Stage:
    conv: Conv
    activation: str
    pooling: str
    pool: Pool  # without pooling its windows are single positions

    def struct(self):
        names = ACTIVATIONS.index(self.activation) + (POOLINGS.index(self.pooling) << 32)
        return (ctypes.c_int64 * 33)(*self.conv.struct(), names, *self.pool.struct())


class AverageRule(ctypes.Structure):
    _fields_ = (("count_include_pad", ctypes.c_bool), ("divisor_override", ctypes.c_int64))


class ElementwiseArrays(ctypes.Structure):
    _fields_ = (("tensors", ctypes.c_void_p * 2), ("output", ctypes.c_void_p), ("scalars", ctypes.c_double * 2))

    @classmethod
    def of(cls, output, tensors, scalars):
        pointers = [tensor.data_ptr() for tensor in tensors]
        return cls((ctypes.c_void_p * 2)(*pointers), output.data_ptr(), (ctypes.c_double * 2)(*scalars))
