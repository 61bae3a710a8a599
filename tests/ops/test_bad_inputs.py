"""Bad arguments to public functions and raw ops: an exception that names op, argument and value; never a crash.

Each case is one line of Python. All run in one child process: a case that kills it is one failed case, and a new
child goes on with the next. The ids B01 ... are those of the survey of inputs that broke other libraries.
"""

import json
import subprocess
import sys

import pytest
import torch

from torch_manual_conv import functional

# What the lines may use.
SETUP = """
import resource, torch, warnings
from torch import nn as torch_nn
import torch_manual_conv
from torch_manual_conv import convert, revert, functional as F, nn
ops = torch.ops.tmc
warnings.simplefilter("ignore")
BIG = 2**62
# A request for absurd amounts of memory must fail at once instead of succeeding slowly.
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
def x(*shape, dtype=torch.float32, device="cpu"):
    return torch.zeros(shape, dtype=dtype, device=device)
def bytes_(*shape, value=0):
    return torch.full(shape, value, dtype=torch.uint8)
"""

# line: words that the message must hold
PUBLIC = {
    # B01-B03, B21: divisors and strides of zero
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), stride=0)": "conv2d stride 0",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), dilation=0)": "conv2d dilation 0",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), groups=0)": "conv2d groups 0",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), stride=(1, -2))": "conv2d stride -2",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), groups=-1)": "conv2d groups -1",
    "F.max_pool2d(x(1,3,8,8), 2, stride=0)": "max_pool2d stride 0",
    "F.avg_pool2d(x(1,3,8,8), 2, stride=0)": "avg_pool2d stride 0",
    "F.sum_pool2d(x(1,3,8,8), 2, stride=0)": "sum_pool2d stride 0",
    "F.max_pool2d(x(1,3,8,8), 2, dilation=0)": "max_pool2d dilation 0",
    "F.avg_pool2d(x(1,3,8,8), 2, divisor_override=0)": "avg_pool2d divisor_override 0",
    "F.conv1d(x(1,3,8), x(4,3,3), stride=0)": "conv1d stride 0",
    "F.conv3d(x(1,3,4,4,4), x(4,3,3,3,3), stride=(1,0,1))": "conv3d stride 0",
    "F.conv_transpose2d(x(1,3,8,8), x(3,4,3,3), stride=0)": "conv_transpose2d stride 0",
    "F.conv_transpose2d(x(1,3,8,8), x(3,4,3,3), output_padding=2)": "conv_transpose2d output_padding 2",
    "F.conv_transpose2d(x(1,3,8,8), x(3,4,3,3), groups=2)": "conv_transpose2d groups 2",
    # B05, channels that disagree
    "F.conv2d(x(1,3,8,8), x(4,2,3,3))": "conv2d input weight [1,~3,~8,~8]",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), groups=2)": "conv2d groups 2",
    "F.conv2d(x(1,4,8,8), x(3,2,3,3), groups=2)": "conv2d groups 3 2",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), x(5))": "conv2d bias [5]",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), x(4,1))": "conv2d bias [4,~1]",
    "F.conv1d(x(1,3,8), x(4,2,3))": "conv1d input [1,~3,~8]",
    "F.conv3d(x(1,3,4,4,4), x(4,2,2,2,2))": "conv3d input [1,~3,~4,~4,~4]",
    "F.conv_transpose2d(x(1,3,8,8), x(4,3,3,3))": "conv_transpose2d input [1,~3,~8,~8]",
    "F.conv_transpose2d(x(1,3,8,8), x(3,4,3,3), x(3))": "conv_transpose2d bias [3]",
    # B06, B07, B23: empty dimensions
    # ... of which torch computes some, and refuses others in its own words
    "F.conv2d(x(1,0,2,8), x(4,0,3,3))": "Kernel size 3 2",
    "F.conv_act_pool2d(x(1,2,8,8), x(4,0,3,3), activation='relu')": "input[1,~2,~8,~8]",
    "F.conv2d(x(1,3,8,8), x(4,0,3,3))": "input[1,~3,~8,~8]",
    "F.conv2d(x(1,3,8,8), x(0,3,3,3))": "conv2d weight [0,~3,~3,~3]",
    "F.conv2d(x(1,3,8,8), x(4,3,0,3))": "conv2d weight [4,~3,~0,~3]",
    "F.conv1d(x(1,3,8), x(4,3,0))": "conv1d weight [4,~3,~0]",
    "F.conv3d(x(1,3,4,4,4), x(4,3,0,3,3))": "conv3d weight [4,~3,~0,~3,~3]",
    "F.conv_transpose2d(x(1,3,8,8), x(3,4,0,3))": "conv weight [3,~4,~0,~3]",
    "F.conv_transpose2d(x(1,0,8,8), x(0,4,3,3))": "conv weight [0,~4,~3,~3]",
    "F.conv2d(x(1,3,0,8), x(4,3,3,3), padding=2)": "conv2d input [1,~3,~0,~8]",
    "F.conv1d(x(1,3,0), x(4,3,3), padding=2)": "conv1d input [1,~3,~0]",
    "F.conv3d(x(3,0,4,4), x(4,3,3,3,3), padding=2)": "conv3d input [3,~0,~4,~4]",
    "F.max_pool2d(x(1,3,0,8), 2)": "max_pool2d input [1,~3,~0,~8]",
    "F.avg_pool2d(x(1,0,8,8), 2)": "avg_pool2d input [1,~0,~8,~8]",
    "F.adaptive_avg_pool2d(x(1,3,0,8), 2)": "adaptive_avg_pool2d input [1,~3,~0,~8]",
    "F.adaptive_max_pool2d(x(1,3,8,0), 2)": "adaptive_max_pool2d input [1,~3,~8,~0]",
    # B18, B19, B25: kernels
    "F.conv2d(x(1,3,2,8), x(4,3,3,3))": "conv2d kernel_size height 3 2",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), dilation=4)": "conv2d kernel_size 9 8",
    "F.conv1d(x(1,3,2), x(4,3,3))": "conv1d kernel_size 3 2",
    "F.conv3d(x(1,3,4,2,4), x(4,3,3,3,3))": "conv3d kernel_size 3 2",
    "F.max_pool2d(x(1,3,8,8), 9)": "max_pool2d kernel_size 9 8",
    "F.max_pool2d(x(1,3,8,8), 0)": "max_pool2d kernel_size 0",
    "F.max_pool2d(x(1,3,8,8), (2, -2))": "max_pool2d kernel_size -2",
    "F.avg_pool2d(x(1,3,8,8), (2, 0))": "avg_pool2d kernel_size 0",
    "F.avg_pool2d(x(1,3,1,1), 2)": "avg_pool2d kernel_size 2 1",
    "F.avg_pool2d(x(1,3,1,1), 2, divisor_override=1)": "avg_pool2d kernel_size 2 1",
    "F.sum_pool2d(x(1,3,1,1), 2)": "sum_pool2d kernel_size 2 1",
    "F.sum_pool2d(x(1,3,1,1, device='meta'), 2)": "sum_pool2d kernel_size 2 1",
    "F.sum_pool2d(x(1,3,8,8), 'two')": "sum_pool2d kernel_size 'two'",
    # B20, B30: lists of the wrong length
    "F.max_pool2d(x(1,3,8,8), (2,2,2))": "max_pool2d kernel_size (2,~2,~2)",
    "F.max_pool2d(x(1,3,8,8), [])": "max_pool2d kernel_size []",
    "F.avg_pool2d(x(1,3,8,8), 2, stride=(1,1,1))": "avg_pool2d stride (1,~1,~1)",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), padding=(1,1,1))": "conv2d padding (1,~1,~1)",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), stride=[])": "conv2d stride []",
    "F.adaptive_avg_pool2d(x(1,3,8,8), (2,2,2))": "adaptive_avg_pool2d output_size (2,~2,~2)",
    # padding
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), padding=-1)": "conv2d padding -1",
    "F.max_pool2d(x(1,3,8,8), 2, padding=2)": "max_pool2d padding 2",
    "F.avg_pool2d(x(1,3,8,8), 2, padding=-1)": "avg_pool2d padding -1",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), padding='full')": "conv2d padding 'full'",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), stride=2, padding='same')": "conv2d padding 'same' stride 2",
    "F.conv_transpose2d(x(1,3,8,8), x(3,4,3,3), padding=20)": "conv_transpose2d padding 20",
    # B16, B17, B22, B24, B28, B29: sizes that overflow
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), padding=BIG)": f"conv2d padding {2**62}",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), dilation=BIG)": f"conv2d dilat {2**62}",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), padding=2**31)": "conv2d output",
    "F.max_pool2d(x(1,3,8,8), 2**63 - 1, stride=-1, ceil_mode=True)": "max_pool2d stride -1",
    "F.max_pool2d(x(1,3,8,8), BIG, padding=BIG // 2, dilation=BIG)": f"max_pool2d kernel_size {2**62}",
    "F.avg_pool2d(x(1,3,8,8), 2**62, padding=2**61, ceil_mode=True)": f"avg_pool2d window {2**62}",
    "F.adaptive_avg_pool2d(x(1,3,8,8), BIG)": f"adaptive_avg_pool2d output_size {2**62 + 1}",
    "F.adaptive_max_pool2d(x(1,3,8,8), -1)": "adaptive_max_pool2d output_size -1",
    "F.conv1d(x(1,3,8), x(4,3,3), padding=BIG)": f"conv1d padding {2**62}",
    "F.conv3d(x(1,3,4,4,4), x(4,3,3,3,3), padding=(0,BIG,0))": f"conv3d padding {2**62}",
    "F.conv3d(x(1,3,4,4,4), x(4,3,3,3,3), padding=(BIG,0,0))": f"conv3d padding {2**62}",
    "F.conv_transpose2d(x(1,3,8,8), x(3,4,3,3), stride=BIG)": f"conv_transpose2d {2**62}",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), stride=2**64)": "conv2d stride 18446744073709551616",
    # B31: rank
    "F.conv2d(x(3,8), x(4,3,3,3))": "conv2d input [3,~8]",
    "F.conv2d(x(1,3,8,8), x(4,3,3))": "conv2d weight [4,~3,~3]",
    "F.conv1d(x(1,1,3,8), x(4,3,3))": "conv1d input [1,~1,~3,~8]",
    "F.conv3d(x(1,3,8), x(4,3,3,3,3))": "conv3d input [1,~3,~8]",
    "F.conv_transpose2d(x(10), x(3,4,3,3))": "conv_transpose2d input [10]",
    "F.max_pool2d(x(8,8), 2)": "max_pool2d input [8,~8]",
    "F.avg_pool2d(x(1,1,3,8,8), 2)": "avg_pool2d input [1,~1,~3,~8,~8]",
    "F.adaptive_avg_pool2d(x(8), 2)": "adaptive_avg_pool2d input [8]",
    # B32: dtypes
    "F.conv2d(x(1,3,8,8), x(4,3,3,3, dtype=torch.float64))": "conv2d weight float64 float32",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), x(4, dtype=torch.float16))": "conv2d bias float16 float32",
    "F.conv1d(x(1,3,8), x(4,3,3).double())": "conv1d weight float64 float32",
    "F.conv_transpose2d(x(1,4,4,4), x(4,3,3,3).half())": "conv_transpose2d weight float16 float32",
    "F.conv_transpose2d(x(1,4,4,4), x(4,3,3,3), x(3).double())": "conv_transpose2d bias float64 float32",
    "ops.sigmoid(x(3, dtype=torch.int64))": "sigmoid input int64",
    # B32: devices and layouts
    "F.conv2d(x(1,3,8,8), x(4,3,3,3, device='meta'))": "conv2d weight meta cpu",
    "F.conv2d(x(1,3,8,8, device='meta'), x(4,3,3,3))": "conv2d weight cpu meta",
    "F.conv_transpose2d(x(1,4,4,4), x(4,3,3,3), x(3, device='meta'))": "conv_transpose2d bias meta cpu",
    # not tensors, not ints, not bools
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), stride=True)": "conv2d stride True",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), groups=[1])": "conv2d groups [1]",
    "F.max_pool2d(x(1,3,8,8), 2, ceil_mode=1)": "max_pool2d ceil_mode 1",
    "F.avg_pool2d(x(1,3,8,8), 2, count_include_pad=None)": "avg_pool2d count_include_pad None",
    "F.sum_pool2d(x(1,3,8,8), 2, ceil_mode='no')": "sum_pool2d ceil_mode 'no'",
    "F.adaptive_avg_pool2d(x(1,3,8,8), None)": "adaptive_avg_pool2d output_size None",
    "F.adaptive_max_pool2d(x(1,3,8,8), None)": "adaptive_max_pool2d output_size None",
    "F.conv_act_pool2d(x(1,3,8,8), x(4,3,3,3), pool='max', pool_size=(True, 2))": "conv_act_pool2d pool_size True",
    "F.conv2d([[1.0]], x(4,3,3,3))": "conv2d input list",
    "F.conv2d(x(1,3,8,8), None)": "conv2d weight NoneType",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), 1.0)": "conv2d bias float",
    "F.max_pool2d(None, 2)": "max_pool2d input NoneType",
    "F.sigmoid(0.5)": "sigmoid input float",
    "F.conv2d(x(1,3,8,8), x(4,3,3,3), stride=1.5)": "conv2d stride 1.5",
    "F.max_pool2d(x(1,3,8,8), '2')": "max_pool2d kernel_size '2'",
    "F.adaptive_avg_pool2d(x(1,3,8,8), 2.0)": "adaptive_avg_pool2d output_size 2.0",
    # the fused stage and conversion
    "F.conv_act_pool2d(x(1,3,8,8), x(4,3,3,3), activation='gelu')": "conv_act_pool2d activation 'gelu'",
    "F.conv_act_pool2d(x(1,3,8,8), x(4,3,3,3), activation=0)": "conv_act_pool2d activation None 0",
    "F.conv_act_pool2d(x(1,3,8,8), x(4,3,3,3), pool=['max'])": "conv_act_pool2d pool ['max']",
    "F.conv_act_pool2d(x(1,3,8,8), x(4,3,3,3), pool='min')": "conv_act_pool2d pool 'min'",
    "F.conv_act_pool2d(x(1,3,8,8), x(4,3,3,3), pool='max', pool_size=(1,2,3))": "pool_size (1,~2,~3)",
    "nn.ConvActPool2d(3, 4, 3, activation='gelu')": "activation 'gelu'",
    "convert('model')": "convert model str",
    "revert(None)": "revert model NoneType",
}

WINDOW = "[2,2,2,2,0,0,1,1], False"  # kernel_size, stride, padding, dilation; ceil_mode
CONV = "[1,1,1,1,0,0], 1"  # stride, dilation, padding; groups
RAW = {
    # B05, B08, B14, B26: gradient operands of other shapes
    f"ops.conv2d_grad_input(x(1,4,5,6), x(4,3,3,3), [8,8], {CONV})": "conv2d_grad_input grad_output [1,~4,~5,~6]",
    f"ops.conv2d_grad_input(x(1,4,0,6), x(4,3,3,3), [8,8], {CONV})": "conv2d_grad_input grad_output [1,~4,~0,~6]",
    f"ops.conv2d_grad_input(x(1,5,6,6), x(4,3,3,3), [8,8], {CONV})": "conv2d_grad_input grad_output [1,~5,~6,~6]",
    f"ops.conv2d_grad_input(x(1,4,6,6), x(4,3,3,3), [-8,8], {CONV})": "conv2d_grad_input input_size -8",
    f"ops.conv2d_grad_input(x(1,4,6,6), x(4,3,3,3), [2**62,8], {CONV})": f"conv2d_grad_input overflow {2**62 - 2}",
    f"ops.conv2d_grad_input(x(1,4,6,6), x(4,3,3), [8,8], {CONV})": "conv2d_grad_input weight [4,~3,~3]",
    "ops.conv2d_grad_input(x(1,4,6,6), x(4,3,3,3), [8,8], [0,1,1,1,0,0], 1)": "conv2d_grad_input stride 0",
    "ops.conv2d_grad_input(x(1,4,6,6), x(4,3,3,3), [8,8], [1,1,1,1,0,0,0], 1)": "conv2d_grad_input geometry 6",
    "ops.conv2d_grad_input(x(1,4,6,6), x(4,3,3,3), [8,8], [1,1,1,1,0,0], 0)": "conv2d_grad_input groups 0",
    "ops.conv2d_grad_input(x(1,4,6,6), x(4,3,3,3), [8,8], [1,1,1,1,0,0], 2**62)": "conv2d_grad_input groups",
    f"ops.conv2d_grad_weight(x(2,4,6,6), x(1,3,8,8), [3,3], {CONV})": "conv2d_grad_weight grad_output [2,~4,~6,~6]",
    f"ops.conv2d_grad_weight(x(1,4,6,6), x(1,3,8,8), [0,3], {CONV})": "conv2d_grad_weight kernel_size 0",
    f"ops.conv2d_grad_weight(x(1,4,6,6), x(1,3,8,8), [9,3], {CONV})": "conv2d_grad_weight kernel_size 9 8",
    f"ops.conv2d_grad_weight(x(1,4,6,6), x(1,0,8,8), [3,3], {CONV})": "conv2d_grad_weight input [1,~0,~8,~8]",
    "ops.conv2d_grad_weight(x(1,4,6,6), x(1,3,8,8), [3,3], [1,1,1,1,0,0], 2)": "conv2d_grad_weight groups 2",
    f"ops.conv2d_grad_weight(x(1,4,6,6), x(1,3,8,8).double(), [3,3], {CONV})": "conv2d_grad_weight input float64",
    "ops.conv2d_grad_bias(x(4,6,6))": "conv2d_grad_bias grad_output [4,~6,~6]",
    f"ops.conv2d(x(1,3,8,8).long(), x(4,3,3,3).long(), None, {CONV})": "conv2d input int64",
    f"ops.conv2d(x(1,3,8,8).cfloat(), x(4,3,3,3).cfloat(), None, {CONV})": "conv2d input complex64",
    f"ops.max_pool2d(x(1,3,8,8).bool(), {WINDOW})": "max_pool2d input bool",
    "ops.avg_pool2d(x(1,3,8,8).byte(), [2,2,2,2,0,0], False, True, None)": "avg_pool2d input uint8",
    "ops.adaptive_max_pool2d(x(1,3,8,8).int(), [2,2])": "adaptive_max_pool2d input int32",
    "ops.conv2d_grad_bias(x(1,4,6,6).long())": "conv2d_grad_bias grad_output int64",
    "ops.sigmoid_grad_input(x(3), x(4))": "sigmoid_grad_input grad_output [3] [4]",
    "ops.sigmoid_grad_input(x(1,1), x(3))": "sigmoid_grad_input grad_output [1,~1] [3]",
    "ops.sigmoid_grad_input(x(3).half(), x(3))": "sigmoid_grad_input float16 float32",
    "ops.avg_pool2d_grad_input(x(3,1,1,1), [7,7], [2,2,2,2,0,0], False, True, None)": "grad_output [3,~1,~1,~1]",
    "ops.avg_pool2d_grad_input(x(1,3,4,4), [8,8], [2,2,2,2,0,0], False, True, 0)": "divisor_override 0",
    "ops.avg_pool2d_grad_input(x(1,3,4,4), [-8,8], [2,2,2,2,0,0], False, True, None)": "input_size -8",
    # B15: window and stride far larger than the input
    "ops.avg_pool2d_grad_input(x(1,3,2,2), [8,8], [40,128,128,128,0,0], False, True, None)": "kernel_size 40",
    "ops.adaptive_avg_pool2d_grad_input(x(1,3,4,4), [0,8])": "adaptive_avg_pool2d_grad_input input_size 0",
    "ops.adaptive_avg_pool2d_grad_input(x(1,3,4,4), [2**62,8])": "adaptive_avg_pool2d_grad_input",
    "ops.adaptive_avg_pool2d_grad_input(x(3,4,4), [8,8])": "adaptive_avg_pool2d_grad_input grad_output [3,~4,~4]",
    # B09, B10, B12, B27: winners from outside
    f"ops.max_pool2d_grad_input(x(1,3,4,4), bytes_(1,3,4,4, value=4), [8,8], {WINDOW})": "grad_input winners 4",
    f"ops.max_pool2d_grad_input(x(1,3,4,4), bytes_(1,3,4,4, value=255), [8,8], {WINDOW})": "grad_input winners 255",
    f"ops.max_pool2d_select(x(1,3,8,8), bytes_(1,3,4,4, value=200), {WINDOW})": "max_pool2d_select winners 200",
    f"ops.max_pool2d_indices(bytes_(1,3,4,4, value=7), [8,8], {WINDOW})": "max_pool2d_indices winners 7",
    # ... inside the window, but in the padding
    "ops.max_pool2d_grad_input(x(1,3,4,4), bytes_(1,3,4,4), [8,8], [3,3,2,2,1,1,1,1], False)": "winners 0",
    "ops.max_pool2d_select(x(1,1,40,40), torch.full((1,1,2,2), -5, dtype=torch.int32), [20,20,20,20,0,0,1,1],"
    " False)": "max_pool2d_select winners -5",
    "ops.adaptive_max_pool2d_grad_input(x(1,3,2,2), bytes_(1,3,2,2, value=99), [8,8])": "winners 99",
    "ops.adaptive_max_pool2d_select(x(1,3,8,8), bytes_(1,3,2,2, value=16))": "adaptive_max_pool2d_select winners 16",
    "ops.adaptive_max_pool2d_indices(bytes_(1,3,2,2, value=16), [8,8])": "adaptive_max_pool2d_indices winners 16",
    f"ops.max_pool2d_grad_input(x(1,3,4,4), bytes_(1,3,4,4).long(), [8,8], {WINDOW})": "winners uint8",
    f"ops.max_pool2d_grad_input(x(1,3,4,4), bytes_(2,3,4,4), [8,8], {WINDOW})": "winners [2,~3,~4,~4]",
    f"ops.max_pool2d_grad_input(x(9,7,4,4), bytes_(5,7,4,4), [8,8], {WINDOW})": "winners [5,~7,~4,~4]",
    f"ops.max_pool2d_grad_input(x(1,3,0,4), bytes_(1,3,4,4), [8,8], {WINDOW})": "grad_output [1,~3,~0,~4]",
    f"ops.max_pool2d_grad_input(x(1,3,4,4), bytes_(1,3,4), [8,8], {WINDOW})": "winners [1,~3,~4]",
    f"ops.max_pool2d_grad_input(x(1,3,4,4), bytes_(1,3,4,4), [9000,8], {WINDOW})": "grad_output [1,~3,~4,~4]",
    f"ops.max_pool2d_select(x(1,3,8,8).int(), bytes_(1,3,4,4), {WINDOW})": "max_pool2d_select input int32",
    "ops.max_pool2d_indices(bytes_(1,3,4,4), [8,8], [2,2,0,2,0,0,1,1], False)": "max_pool2d_indices stride 0",
    # lists of the wrong length reach C++ only here
    "ops.max_pool2d(x(1,3,8,8), [2,2,2,2,0,0], False)": "max_pool2d window 8 [2,~2,~2,~2,~0,~0]",
    "ops.avg_pool2d(x(1,3,8,8), [], False, True, None)": "avg_pool2d window 6 []",
    "ops.conv2d(x(1,3,8,8), x(4,3,3,3), None, [], 1)": "conv2d geometry []",
    "ops.conv2d(x(1,3,8,8), x(4,3,3,3), None, [0]*9999, 1)": "conv2d geometry ...",
    "ops.adaptive_max_pool2d(x(1,3,8,8), [1,2,3])": "adaptive_max_pool2d output_size [1,~2,~3]",
    "ops.adaptive_avg_pool2d_grad_input(x(1,3,4,4), [])": "adaptive_avg_pool2d_grad_input input_size []",
}

CHILD = """
import json, sys
cases = json.loads(sys.stdin.readline())
for number, line in cases:
    print(json.dumps([number, "started", ""]), flush=True)
    try:
        result = repr(eval(line))[:200]
        outcome = ["returned", result]
    except Exception as error:
        outcome = ["raised", f"{type(error).__name__}: {error}".partition("\\n")[0]]
    print(json.dumps([number, *outcome]), flush=True)
"""
TIMEOUT = 120  # seconds for one child: far more than all cases take


def run_in_children(lines):
    """{line: (outcome, detail)}, outcome being 'raised', 'returned' or 'crashed'."""
    lines, outcomes, start = list(lines), {}, 0
    while start < len(lines):
        child = subprocess.run(
            [sys.executable, "-c", SETUP + CHILD],
            input=json.dumps(list(enumerate(lines))[start:]),
            capture_output=True, text=True, timeout=TIMEOUT,
        )  # fmt: skip
        for number, outcome, detail in map(json.loads, child.stdout.splitlines()):
            outcomes[lines[number]] = outcome, detail
            start = number + 1
        if child.returncode != 0:
            crashed = lines[start - 1] if start else "before the first case"
            assert start, child.stderr
            outcomes[crashed] = "crashed", f"exit status {child.returncode}: {child.stderr[-500:]}"
    return outcomes


@pytest.fixture(scope="module")
def outcomes():
    return run_in_children([*PUBLIC, *RAW])


@pytest.mark.parametrize("line", [*PUBLIC, *RAW])
def test_is_rejected(line, outcomes):
    words = (PUBLIC | RAW)[line].split()
    outcome, message = outcomes[line]
    assert outcome == "raised", f"{line} {outcome} {message}"
    assert message.startswith(("RuntimeError", "TypeError", "ValueError")), f"{line}: {message}"
    missing = [word for word in words if word.replace("~", " ") not in message]
    assert not missing, f"{line}: the message lacks {missing}: {message}"


def test_a_crash_is_one_failed_case():
    outcomes = run_in_children(["1 + 1", "__import__('os').kill(__import__('os').getpid(), 11)", "F.sigmoid(0)"])
    assert [outcome for outcome, _ in outcomes.values()] == ["returned", "crashed", "raised"]


# Tracing sees neither values nor devices beside its own, and leaves the overflow of a whole tensor to the kernel.
NOT_ON_META = [line for line in [*PUBLIC, *RAW] if "value=" in line or "device=" in line or "2**62, padding" in line]
NOT_ON_META += ["ops.max_pool2d_grad_input(x(1,3,4,4), bytes_(1,3,4,4), [8,8], [3,3,2,2,1,1,1,1], False)"]


@pytest.mark.parametrize("line", [line for line in [*PUBLIC, *RAW] if line not in NOT_ON_META])
def test_is_rejected_while_tracing(line):
    names = {}
    setup = SETUP.replace("resource.setrlimit", "print")  # the limit is for children
    exec(setup.replace("cpu", "meta"), names)
    exec("def bytes_(*shape): return torch.zeros(shape, dtype=torch.uint8, device='meta')", names)
    with pytest.raises(Exception, match=r"\w"):
        exec(line, names)


def test_rejected_call_leaves_autograd_as_it_was():
    input, weight = torch.ones(1, 2, 4, 4, requires_grad=True), torch.ones(1, 2, 3, 3)
    for operand in (input, input.detach()):
        with pytest.raises(RuntimeError, match="channels") as kept:  # whose traceback keeps the frames of the call
            functional.conv2d(operand, torch.ones(1, 3, 3, 3))
        assert torch.ops.tmc.conv2d(input, weight, None, [1, 1, 1, 1, 0, 0], 1).requires_grad
        assert kept.value is not None
