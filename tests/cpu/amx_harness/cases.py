"""What the AMX kernels must get right, on operands that are hard for sums of bfloat16. Called in a process in which
torch.ops.tmc runs on AMX, emulated or not, and takes the tile product (test_amx.py)."""

import torch
from checks import DENSE
from comparisons import PASSES, describe_worst, same_values, within

import torch_manual_conv  # noqa: F401  (registers torch.ops.tmc)

STRIDE, PADDING, DILATION = [1, 1], [1, 1], [1, 1]
X, W, G = (2, 40, 11, 11), (37, 40, 3, 3), (2, 37, 11, 11)  # 360, 333 and 242 terms: blocks that are not full
EPS = torch.finfo(torch.float32).eps / 2
PRECISIONS = ("highest", "high", "medium")


def ours(x, w, g, precision="highest"):
    """(output, grad_input, grad_weight) of x, w and grad_output g."""
    geometry = STRIDE + DILATION + PADDING, 1, precision
    return (
        torch.ops.tmc.conv2d(x, w, None, *geometry),
        torch.ops.tmc.conv2d_grad_input(g, w, x.shape[2:], *geometry),
        torch.ops.tmc.conv2d_grad_weight(g, x, w.shape[2:], *geometry),
    )


def theirs(x, w, g):
    mask = [True, True, False]
    grads = torch.ops.aten.convolution_backward(g, x, w, None, STRIDE, PADDING, DILATION, False, [0, 0], 1, mask)
    return torch.nn.functional.conv2d(x, w, None, STRIDE, PADDING), grads[0], grads[1]


def normal(shape):
    return torch.randn(shape, dtype=torch.float64)


def wide(shape, low, high):
    """Magnitudes spread evenly over the decades from low to high."""
    return normal(shape).sign() * 10 ** (low + (high - low) * torch.rand(shape, dtype=torch.float64))


def cancelling(shape):
    """Channels that nearly cancel in pairs, under a weight that is equal for both."""
    x = normal(shape)
    x[:, 1::2] = -x[:, 0::2] * (1 + 1e-6 * normal(x[:, 0::2].shape))
    return x


def paired(shape):
    return normal((shape[0], shape[1] // 2, *shape[2:])).repeat_interleave(2, 1)


# Of x, weight and grad_output. A row or column wider than 2^100 stays unsplit.
OPERANDS = {
    "normal": lambda: (normal(X), normal(W), normal(G)),
    "sparse": lambda: (normal(X).relu(), normal(W) * (torch.rand(W) < 0.1), 1e-9 * normal(G).relu()),
    "subnormal": lambda: (1e-40 * normal(X), normal(W), 1e-41 * normal(G)),
    "subnormal-products": lambda: (1e-20 * normal(X), 1e-20 * normal(W), 1e-20 * normal(G)),
    "subnormal-among-normal": lambda: (wide(X, -42, 0), wide(W, -42, 0), wide(G, -42, 0)),
    "near-overflow": lambda: (3.4e38 * (1 - 1e-4 * torch.rand(X).double()), 1e-4 * normal(W), 1e-4 * normal(G)),
    "large-products": lambda: (1e18 * normal(X), 1e18 * normal(W), 1e18 * normal(G)),
    "wide": lambda: (wide(X, -15, 14), wide(W, -15, 14), wide(G, -15, 14)),
    "opposite-ends": lambda: (wide(X, -20, 18), wide(W, 0, 18), wide(G, -37, 2)),
    "cancelling": lambda: (cancelling(X), paired(W), normal(G)),
    "cancelling-wide": lambda: (cancelling(X) * wide((1, X[1], 1, 1), -9, 9), paired(W), normal(G)),
}


def errors(result, exact, scale):
    """Errors in half ulps of the sum of the products' magnitudes; 0 for what torch cannot represent."""
    possible = scale < torch.finfo(torch.float32).max
    unit = EPS * scale + torch.finfo(torch.float32).smallest_normal * 2 * EPS
    return torch.where(possible, (result.double() - exact) / unit, 0), possible


def root_mean_square(values):
    return values.square().mean().sqrt().item()


def largest(values):
    return values.abs().max().item()


def accuracy(name):
    """highest: at most 1.5 times torch's float32 error; high and medium: what two parts and one allow."""
    torch.manual_seed(0)
    x, w, g = (t.float() for t in OPERANDS[name]())
    exact = theirs(x.double(), w.double(), g.double())
    scale = theirs(x.double().abs(), w.double().abs(), g.double().abs())
    for precision in PRECISIONS:
        results = zip(PASSES[:3], ours(x, w, g, precision), theirs(x, w, g), exact, scale, strict=True)
        for what, mine, their, true, size in results:
            (error, possible), (their_error, _) = errors(mine, true, size), errors(their, true, size)
            # Two parts leave 2^-17 of each factor and drop a product of 2^-16; one part leaves 2^-8 of each factor.
            allowed = {"highest": 0, "high": 2.0**-15 / EPS, "medium": 2.0**-7 / EPS}[precision]
            for measure, most, spare in ((root_mean_square, 1.5, allowed / 2), (largest, 2, allowed)):
                off, limit = measure(error[possible]), most * measure(their_error[possible]) + spare
                assert off <= limit, (
                    f"{describe_worst(f'{what}, precision {precision}', mine, true, error.abs(), their)};"
                    f" {measure.__name__} error {off:.3g} half ulps, limit {limit:.3g}"
                )


def special_values(name):
    """Infinities, NaN and overflow come out where float64 has them; all else is as accurate as without them."""
    torch.manual_seed(0)
    value = float(name)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x, w, g = normal(X).to(dtype), normal(W).to(dtype), normal(G).to(dtype)
        x[0, 3, 4, 5] = g[1, 7, 0, 2] = value
        w[5, 1, 1, 1] = value if name != "nan" else 1
        exact = theirs(x.double(), w.double(), g.double())
        for precision in PRECISIONS if dtype == torch.float32 else ("highest",):
            for what, mine, true in zip(PASSES[:3], ours(x, w, g, precision), exact, strict=True):
                what = f"{what}, precision {precision}"
                same_values(mine.isnan(), true.isnan(), f"{what}: where it is NaN")
                same_values(mine.isposinf(), true.isposinf(), f"{what}: where it is infinite")
                same_values(mine.isneginf(), true.isneginf(), f"{what}: where it is -infinite")
                bound = {"highest": 2 * torch.finfo(dtype).eps, "high": 2.0**-16, "medium": 2.0**-8}[precision]
                finite = [torch.where(true.isfinite(), t, 0) for t in (mine, true)]
                within(*finite, bound, what, torch.Tensor.norm)


def batch():
    """A sample's bits, whatever the batch around it holds: infinities, subnormals or nothing."""
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x, w, g = normal((3, *X[1:])).to(dtype), normal(W).to(dtype), normal((3, *G[1:])).to(dtype)
        for tensor in (x, g):
            tensor[0] *= 1e-30
            tensor[0, 0] = torch.inf
            tensor[2, :, 3:5] *= 1e-3
        for precision in PRECISIONS:
            for layout in DENSE.values():
                x, g = layout(x), layout(g)
                together = ours(x, w, g, precision)[:2]
                for i in range(3):
                    alone = ours(x[i : i + 1], w, g[i : i + 1], precision)[:2]
                    for what, all_of_them, one in zip(PASSES[:2], together, alone, strict=True):
                        what = f"{what} of sample {i}, wanted as alone, precision {precision}"
                        same_values(all_of_them[i].nan_to_num(7.0), one[0].nan_to_num(7.0), what)


def threads():
    """Bits do not depend on the number of threads."""
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x, w, g = normal((3, 21, 13, 13)).to(dtype), normal((35, 21, 3, 3)).to(dtype), normal((3, 35, 13, 13)).to(dtype)
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(ours(x, w, g))
        for count, other in zip((2, 3), results[1:], strict=True):
            same_values(other, results[0], f"{count} threads, wanted as with 1", PASSES)


def edges():
    """Extents around the tiles' 16, 32 and 256, odd depths, both memory layouts."""
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for n, c, k, size in (
            (1, 1, 1, 1),
            (1, 3, 17, 4),
            (2, 15, 16, 6),
            (1, 32, 33, 9),
            (1, 29, 31, 17),
            (1, 257, 2, 3),
        ):
            for layout in DENSE.values():
                shapes = (n, c, size, size), (k, c, 3, 3), (n, k, size, size)
                x, w, g = (layout(normal(shape).to(dtype)) for shape in shapes)
                exact = theirs(x.double(), w.double(), g.double())
                for precision in PRECISIONS if dtype == torch.float32 else ("highest",):
                    eps = {"highest": torch.finfo(dtype).eps, "high": 2.0**-16, "medium": 2.0**-8}[precision]
                    for what, mine, true in zip(PASSES[:3], ours(x, w, g, precision), exact, strict=True):
                        within(mine, true, 4 * eps, f"{what}, precision {precision}")
