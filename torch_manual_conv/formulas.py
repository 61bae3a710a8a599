"""The lecture's formulas as plainly as Python can say them: convolution, sigmoid, pooling, and every gradient.

Read this file first. Tensors are used as plain arrays, one number at a time, so nothing here is fast; in float64
it is exact to rounding, which makes it the oracle the kernels are tested against. "Eq. 3" is the number under which
docs/derivations.md derives a formula, and (A) ... (D) are the lecture's names; the kernels cite the same numbers.

    x [N, C, H, W]           input feature maps, c = 0 ... C-1 is the lecture's depth
    w [K, C/groups, R, S]    K filters, b [K] one bias for each
    z [N, K, P, Q]           what the convolution returns
    o [N, K, P, Q]           o = g(z), the activation
    y [N, C, P, Q]           what pooling returns
    grad_z                   dJ/dz, the cost J differentiated by z; grad_x, grad_w, grad_b, grad_o, grad_y alike
"""

from itertools import product

import torch

# ---- Convolution -----------------------------------------------------------------------------------------------


def output_extent(size, kernel, stride=1, padding=0, dilation=1, ceil_mode=False):
    """Eq. 2, one axis: P = floor((H + 2*padding - dilation*(R - 1) - 1) / stride) + 1.

    ceil_mode (pooling) rounds up, but no window may start beyond the input and its leading padding.
    """
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    last = (room + stride - 1 if ceil_mode else room) // stride
    return last if ceil_mode and last * stride >= size + padding else last + 1


def output_size(size, kernel_size, stride=1, padding=0, dilation=1, ceil_mode=False):
    """Eq. 2, both axes: (P, Q) from (H, W)."""
    axes = zip(*map(pair, (size, kernel_size, stride, padding, dilation)), strict=True)
    return tuple(output_extent(*axis, ceil_mode) for axis in axes)


def products(x_size, w_size, stride=1, padding=0, dilation=1, groups=1):
    """Eq. 2: every multiplication of a convolution, as the three places that meet: in z, in x and in w.

    h = row(p, r) = p*stride - padding + r*dilation and w = col(q, s) = q*stride - padding + s*dilation. Outside the
    input x is zero, so nothing is multiplied. The convolution and its two gradients are this one loop, read in three
    directions.
    """
    (N, _, H, W), (K, C, R, S) = x_size, w_size
    P, Q = output_size((H, W), (R, S), stride, padding, dilation)
    for n, k, p, q, c, r, s in every_index(N, K, P, Q, C, R, S):
        h = p * pair(stride)[0] - pair(padding)[0] + r * pair(dilation)[0]
        w = q * pair(stride)[1] - pair(padding)[1] + s * pair(dilation)[1]
        first = k // (K // groups) * C  # filter k sees only the C channels of its group
        if 0 <= h < H and 0 <= w < W:
            yield (n, k, p, q), (n, first + c, h, w), (k, c, r, s)


def conv2d(x, w, b=None, stride=1, padding=0, dilation=1, groups=1):
    """Eq. 1: z[i, j] = sum over l, u, v of x[i + u, j + v, l] * w[u, v, l] + b, for every image and filter.

    x [N, C, H, W], w [K, C/groups, R, S], b [K] -> z [N, K, P, Q]
    """
    z = x.new_zeros(x.shape[0], w.shape[0], *output_size(x.shape[2:], w.shape[2:], stride, padding, dilation))
    for nkpq, nchw, kcrs in products(x.shape, w.shape, stride, padding, dilation, groups):
        z[nkpq] += x[nchw] * w[kcrs]
    return z if b is None else z + b[:, None, None]


def conv2d_grad_weight(grad_z, x, kernel_size, stride=1, padding=0, dilation=1, groups=1):
    """Eq. 3 (A): dJ/dw[u, v, l] = sum over i, j of dJ/dz[i, j] * x[i + u, j + v, l].

    grad_z [N, K, P, Q], x [N, C, H, W] -> grad_w [K, C/groups, R, S]
    """
    grad_w = x.new_zeros(grad_z.shape[1], x.shape[1] // groups, *pair(kernel_size))
    for nkpq, nchw, kcrs in products(x.shape, grad_w.shape, stride, padding, dilation, groups):
        grad_w[kcrs] += grad_z[nkpq] * x[nchw]
    return grad_w


def conv2d_grad_bias(grad_z):
    """Eq. 4 (A): dJ/db = sum over i, j of dJ/dz[i, j]. grad_z [N, K, P, Q] -> grad_b [K]"""
    grad_b = grad_z.new_zeros(grad_z.shape[1])
    for n, k, p, q in every_index(*grad_z.shape):
        grad_b[k] += grad_z[n, k, p, q]
    return grad_b


def conv2d_grad_input(grad_z, w, input_size, stride=1, padding=0, dilation=1, groups=1):
    """Eq. 5 (B, C): dJ/dx[i, j] = sum over i', j' of dJ/dz[i', j'] * w[i - i', j - j'].

    The sum runs where 0 <= i - i' < R and 0 <= j - j' < S.
    grad_z [N, K, P, Q], w [K, C/groups, R, S], input_size (H, W) -> grad_x [N, C, H, W]
    """
    grad_x = grad_z.new_zeros(grad_z.shape[0], w.shape[1] * groups, *pair(input_size))
    for nkpq, nchw, kcrs in products(grad_x.shape, w.shape, stride, padding, dilation, groups):
        grad_x[nchw] += grad_z[nkpq] * w[kcrs]
    return grad_x


# ---- Sigmoid ---------------------------------------------------------------------------------------------------


def sigmoid(z):
    """Eq. 11: o = g(z) = 1 / (1 + exp(-z)), for each element of a tensor of any shape."""
    return 1 / (1 + torch.exp(-z))


def sigmoid_grad_input(grad_o, o):
    """Eq. 12 (D): dJ/dz = dJ/do * o * (1 - o): the output alone says how steep g is."""
    return grad_o * o * (1 - o)


def backpropagate(grad_z_next, w_next, o, stride=1, padding=0, dilation=1, groups=1):
    """Eq. 25 (B with C and D put in), from one layer's z to the z of the layer before it:

    dJ/dz[i, j] = sum over i', j' of dJ/dz_next[i', j'] * w_next[i - i', j - j'] * o[i, j] * (1 - o[i, j])

    grad_z_next [N, K, P, Q], w_next [K, C/groups, R, S], o [N, C, H, W] -> grad_z [N, C, H, W]
    """
    grad_o = conv2d_grad_input(grad_z_next, w_next, o.shape[2:], stride, padding, dilation, groups)
    return sigmoid_grad_input(grad_o, o)


# ---- Pooling: every channel of every image alone ---------------------------------------------------------------


def sliding_windows(size, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    """window(p, q) of eqs. 6 to 9, as the rows of each p and the columns of each q. They may reach into the
    padding, but not beyond it.
    """
    stride = kernel_size if stride is None else stride
    axes = []
    for n, k, s, p, d in zip(size, *map(pair, (kernel_size, stride, padding, dilation)), strict=True):
        starts = [i * s - p for i in range(output_extent(n, k, s, p, d, ceil_mode))]
        axes.append([range(start, min(start + d * (k - 1) + 1, n + p), d) for start in starts])
    return axes


def adaptive_windows(size, output_size):
    """window(p, q) of adaptive pooling: rows floor(p*H/P) to ceil((p + 1)*H/P), exclusive; columns in the same way."""
    axes = zip(size, pair(output_size), strict=True)
    return [[range(i * n // m, -(-(i + 1) * n // m)) for i in range(m)] for n, m in axes]


def inside(rows, columns, size):
    """The positions (h, w) of a window that lie in the input, not in its padding."""
    return [(h, w) for h, w in product(rows, columns) if 0 <= h < size[0] and 0 <= w < size[1]]


def shares(rows, columns, input_size, count_include_pad=True, divisor=None):
    """Every addition of an average: its place in y, its place in x, and what it is divided by.

    The divisor is the window's size, R*S for R x S taps, without the padding if count_include_pad is False.
    """
    for p, q in every_index(len(rows), len(columns)):
        taps = inside(rows[p], columns[q], input_size)
        size = len(rows[p]) * len(columns[q]) if count_include_pad else len(taps)
        for hw in taps:
            yield (p, q), hw, divisor or size


def max_over(x, rows, columns):
    """Eq. 6: y[p, q] = the largest x[h, w] of window(p, q), and where it stood: h*W + w, as torch counts it.

    The first maximum wins a tie, the last NaN wins over everything. x [N, C, H, W] -> y, winners [N, C, P, Q]
    """
    y = x.new_zeros(*x.shape[:2], len(rows), len(columns))
    winners = torch.zeros_like(y, dtype=torch.int64)
    for n, c, p, q in every_index(*y.shape):
        best, winner = -torch.inf, None
        for h, w in inside(rows[p], columns[q], x.shape[2:]):
            if winner is None or x[n, c, h, w] > best or x[n, c, h, w].isnan():
                best, winner = x[n, c, h, w], h * x.shape[3] + w
        y[n, c, p, q], winners[n, c, p, q] = best, winner
    return y, winners


def mean_over(x, rows, columns, count_include_pad=True, divisor=None):
    """Eq. 7: y[p, q] = sum over (h, w) in window(p, q) of x[h, w] / divisor. x [N, C, H, W] -> y [N, C, P, Q]"""
    y = x.new_zeros(*x.shape[:2], len(rows), len(columns))
    for (p, q), (h, w), area in shares(rows, columns, x.shape[2:], count_include_pad, divisor):
        y[:, :, p, q] += x[:, :, h, w] / area
    return y


def spread_over(grad_y, input_size, rows, columns, count_include_pad=True, divisor=None):
    """Eq. 9: dJ/dx[h, w] = sum of dJ/dy[p, q] / divisor over the windows with (h, w) in window(p, q).

    grad_y [N, C, P, Q] -> grad_x [N, C, H, W]
    """
    grad_x = grad_y.new_zeros(*grad_y.shape[:2], *input_size)
    for (p, q), (h, w), area in shares(rows, columns, input_size, count_include_pad, divisor):
        grad_x[:, :, h, w] += grad_y[:, :, p, q] / area
    return grad_x


def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    """Eq. 6: the maximum of each window, and its winner. x [N, C, H, W] -> y, winners [N, C, P, Q]"""
    return max_over(x, *sliding_windows(x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode))


def max_pool2d_grad_input(grad_y, winners, input_size):
    """Eq. 8: dJ/dx[h, w] = sum of dJ/dy[p, q] over the windows that (h, w) won: all to the winner.

    grad_y [N, C, P, Q], winners [N, C, P, Q] from max_pool2d or adaptive_max_pool2d -> grad_x [N, C, H, W]
    """
    grad_x = grad_y.new_zeros(*grad_y.shape[:2], *input_size)
    for n, c, p, q in every_index(*grad_y.shape):
        h, w = divmod(int(winners[n, c, p, q]), input_size[1])
        grad_x[n, c, h, w] += grad_y[n, c, p, q]
    return grad_x


def max_pool2d_select(x, winners):
    """Eq. 10: y[p, q] = x[winner(p, q)], the transpose of eq. 8. x [N, C, H, W] -> y [N, C, P, Q]"""
    y = x.new_zeros(winners.shape)
    for n, c, p, q in every_index(*winners.shape):
        h, w = divmod(int(winners[n, c, p, q]), x.shape[3])
        y[n, c, p, q] = x[n, c, h, w]
    return y


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
    """Eq. 7: the mean of each window. x [N, C, H, W] -> y [N, C, P, Q]"""
    windows = sliding_windows(x.shape[2:], kernel_size, stride, padding, ceil_mode=ceil_mode)
    return mean_over(x, *windows, count_include_pad, divisor_override)


def avg_pool2d_grad_input(grad_y, input_size, kernel_size, stride=None, padding=0, ceil_mode=False,
                          count_include_pad=True, divisor_override=None):  # fmt: skip
    """Eq. 9: every position of a window gets its even share. grad_y [N, C, P, Q] -> grad_x [N, C, H, W]"""
    windows = sliding_windows(input_size, kernel_size, stride, padding, ceil_mode=ceil_mode)
    return spread_over(grad_y, input_size, *windows, count_include_pad, divisor_override)


def sum_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False):
    """Eq. 7 with divisor 1: the sum of each window. x [N, C, H, W] -> y [N, C, P, Q]"""
    return avg_pool2d(x, kernel_size, stride, padding, ceil_mode, divisor_override=1)


def sum_pool2d_grad_input(grad_y, input_size, kernel_size, stride=None, padding=0, ceil_mode=False):
    """Eq. 9 with divisor 1: every position of a window gets all of it. grad_y [N, C, P, Q] -> grad_x [N, C, H, W]"""
    return avg_pool2d_grad_input(grad_y, input_size, kernel_size, stride, padding, ceil_mode, divisor_override=1)


def adaptive_max_pool2d(x, output_size):
    """Eq. 6 over windows that tile the input. x [N, C, H, W] -> y, winners [N, C, P, Q]; its gradient is eq. 8."""
    return max_over(x, *adaptive_windows(x.shape[2:], output_size))


def adaptive_avg_pool2d(x, output_size):
    """Eq. 7 over windows that tile the input. x [N, C, H, W] -> y [N, C, P, Q]"""
    return mean_over(x, *adaptive_windows(x.shape[2:], output_size))


def adaptive_avg_pool2d_grad_input(grad_y, input_size):
    """Eq. 9 over windows that tile the input. grad_y [N, C, P, Q] -> grad_x [N, C, H, W]"""
    return spread_over(grad_y, input_size, *adaptive_windows(input_size, grad_y.shape[2:]))


# ---- One whole stage: convolution, activation, pooling ---------------------------------------------------------

ACTIVATIONS = {  # o = g(z), and dJ/dz from dJ/do and o
    None: (lambda z: z, lambda grad_o, o: grad_o),
    "sigmoid": (sigmoid, sigmoid_grad_input),
    "relu": (torch.relu, lambda grad_o, o: grad_o * (o > 0)),
    "tanh": (torch.tanh, lambda grad_o, o: grad_o * (1 - o * o)),
}


def conv_act_pool2d(x, w, b=None, *, activation="sigmoid", pool="max", pool_size=2, pool_stride=None, pool_padding=0,
                    **conv):  # fmt: skip
    """Eq. 21: y = pool(g(conv(x))). x [N, C, H, W] -> y; `conv` holds stride, padding, dilation, groups."""
    g, _ = ACTIVATIONS[activation]
    o, window = g(conv2d(x, w, b, **conv)), (pool_size, pool_stride, pool_padding)
    if pool == "max":
        return max_pool2d(o, *window)[0]
    return {"avg": avg_pool2d, "sum": sum_pool2d}[pool](o, *window) if pool else o


def conv_act_pool2d_gradients(grad_y, x, w, b=None, *, activation="sigmoid", pool="max", pool_size=2, pool_stride=None,
                              pool_padding=0, **conv):  # fmt: skip
    """Eq. 22, the chain rule down one stage: dJ/dy -> dJ/do -> dJ/dz -> dJ/dx, dJ/dw, dJ/db.

    grad_y as conv_act_pool2d returns it -> grad_x [N, C, H, W], grad_w [K, C/groups, R, S], grad_b [K]
    """
    g, grad_g = ACTIVATIONS[activation]
    o, window = g(conv2d(x, w, b, **conv)), (pool_size, pool_stride, pool_padding)
    if pool == "max":
        grad_o = max_pool2d_grad_input(grad_y, max_pool2d(o, *window)[1], o.shape[2:])
    elif pool:
        grad_o = {"avg": avg_pool2d_grad_input, "sum": sum_pool2d_grad_input}[pool](grad_y, o.shape[2:], *window)
    else:
        grad_o = grad_y
    grad_z = grad_g(grad_o, o)
    grad_x = conv2d_grad_input(grad_z, w, x.shape[2:], **conv)
    return grad_x, conv2d_grad_weight(grad_z, x, w.shape[2:], **conv), conv2d_grad_bias(grad_z)


def pair(value):
    """(height, width) from one number for both, or from two."""
    return (value, value) if isinstance(value, int) else tuple(value)


def every_index(*extents):
    """All index tuples of nested loops over these extents."""
    return product(*map(range, extents))
