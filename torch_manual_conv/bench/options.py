"""The command line of the benchmark: what may be asked for, and a one-line error for what makes no sense."""

import argparse
import difflib
import os

from .._command import Parser, check_file, file_option
from ..verify import cuda_state
from .cases import GROUPS, cases_of, words
from .shapes import NETWORKS, Layer, same

PROG = "python -m torch_manual_conv.bench"
DESCRIPTION = """\
How fast is it, and how far from the possible? Ours beside torch (contiguous,
channels_last and, with --compile, torch.compile) and beside what this machine
could do at most. All take turns in one process; each result is compared with
float64 first, and what is wrong gets no speed.
"""
EPILOG = f"""\
cases (batch):
{chr(10).join(f"  {name:10}({group.batch}) {group.note}" for name, group in GROUPS.items())}

examples, after {PROG}:
                                           alexnet, pools, sigmoid, stages; minutes
  alexnet/conv3 pools                      one layer; one group
  resnet18 --dtype bfloat16 --threads 1 2  both numbers of threads
  --conv 8 64 56 56 128 3 3 --stride 2     your own layer: N C H W K R S
  stages step --compile                    with a torch.compile column
  alexnet --isa avx2                       the kernels of another instruction set
  alexnet --json run.json --picture roofline.svg
  --scaling --picture scaling.svg          cost by batch, image size, threads

exit code: 0 done, 1 a result was wrong, 2 wrong command line
"""
DTYPES = ("float64", "float32", "bfloat16", "float16")
DEFAULT_CASES = ("alexnet", "pools", "sigmoid", "stages")
MOST = 1 << 20  # of any size on the command line
GEOMETRY = {"stride": 1, "padding": 0, "dilation": 1}
BYTES_AN_IMAGE = 1 << 24  # of a training step in four networks, the largest of the cases that are no single layer


def at_least(low):
    def integer(text):
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= MOST:
            raise argparse.ArgumentTypeError(f"must be an integer from {low} to {MOST}, got {text!r}")
        return value

    return integer


def build_parser():
    parser = Parser(
        prog=PROG,
        usage="%(prog)s [CASE ...] [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="a group of cases, or one of them: group/name")
    own = parser.add_argument_group("your own convolution")
    own.add_argument("--conv", nargs=7, type=at_least(1), metavar=tuple("NCHWKRS"), help="its sizes")
    for name, default in GEOMETRY.items():
        about = f"one, or height and width; default: {default}"
        own.add_argument(f"--{name}", nargs="+", type=at_least(default), help=about)
    own.add_argument("--groups", type=at_least(1), help="default: 1")
    how = parser.add_argument_group("how")
    how.add_argument("--batch", type=at_least(1), help="images; default: each group's own")
    how.add_argument("--dtype", nargs="+", default=["float32"], choices=DTYPES, help="default: float32")
    how.add_argument("--threads", nargs="+", type=at_least(1), help="default: 1 (with --scaling: 1 2)")
    how.add_argument("--precision", choices=("highest", "high", "medium"), default="highest",
                     help="of float32, by torch's switches; default: highest")  # fmt: skip
    how.add_argument("--rounds", type=at_least(1), default=9, help="turns of each contestant; default: 9")
    how.add_argument("--compile", action="store_true", help="also torch.compile (takes a compiler, and a while)")
    how.add_argument("--graphs", action="store_true", help="also as CUDA graphs and, with --compile, ours compiled")
    how.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    how.add_argument("--isa", help="base, avx2, avx512, ...: CPU kernels to use; default: the best (TMC_CPU_ISA)")
    how.add_argument("--scaling", action="store_true", help="time an image by batch, image size and threads instead")
    out = parser.add_argument_group("results")
    every = "every record, with machine, versions, date, command; tables that FILE has already are replaced"
    out.add_argument("--json", type=file_option, metavar="FILE", help=f"{every}, its others stay")
    out.add_argument("--markdown", type=file_option, metavar="FILE", help="the tables, with --json all of that file's")
    out.add_argument(
        "--picture", type=file_option, metavar="FILE", help="an SVG: a roofline, or with --scaling the curves"
    )
    return parser


def parse(argv):
    parser = build_parser()
    options = parser.parse_intermixed_args(argv)
    options.selected = [case for word in options.cases for case in _cases(parser, word)]
    options.own = _own_layer(parser, options) if options.conv else None
    for name in (*GEOMETRY, "groups"):
        if getattr(options, name) and not options.conv:
            parser.error(f"--{name}: describes your own layer, so it needs --conv")
    if options.scaling and (options.cases or options.conv or options.compile):
        parser.error("--scaling measures AlexNet's convolutional part: no CASE, --conv or --compile beside it")
    if not (options.cases or options.conv or options.scaling):
        options.selected = [case for word in DEFAULT_CASES for case in cases_of(word)]
    options.threads = options.threads or ([1, 2] if options.scaling else [1])
    if any(case.group == "step" for case in options.selected) and "float64" in options.dtype:
        parser.error("step: --dtype must be float32, or bfloat16 or float16 for autocast, got float64")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if max(options.threads) > cores:
        parser.error(f"--threads: must be at most the {cores} cores of this process, got {max(options.threads)}")
    if options.device == "cuda" and not cuda_state()[0]:
        parser.error(f"--device cuda: {cuda_state()[1]}")
    if options.graphs and options.device != "cuda":
        parser.error("--graphs: needs --device cuda")
    _check_memory(parser, options)
    check_file(parser, "json", options.json)
    _check_whole(parser, options)
    check_file(parser, "markdown", options.markdown)
    check_picture(parser, options.picture)
    return options


def _cases(parser, word):
    found = cases_of(word)
    if not found:
        near = difflib.get_close_matches(word, words(), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        parser.error(f"unknown case {word!r}: {hint}known: {', '.join(GROUPS)}, or one of them as group/name")
    return found


def _own_layer(parser, options):
    """(N, the layer) that --conv describes."""
    n, c, h, w, k, r, s = options.conv
    pairs = []
    for name, default in GEOMETRY.items():
        values = getattr(options, name) or [default]
        if len(values) > 2:
            parser.error(f"--{name}: must be one integer, or height and width, got {len(values)}")
        pairs.append((values[0], values[-1]))
    groups = options.groups or 1
    layer = Layer("own", c, h, w, k, r, s, *pairs, groups)
    if c % groups or k % groups:
        parser.error(f"--groups: must divide C and K, got groups={groups}, C={c}, K={k}")
    if min(layer.output_size()) < 1:
        padded = [extent + 2 * pad for extent, pad in zip((h, w), layer.padding, strict=True)]
        dilated = "" if layer.dilation == (1, 1) else f" with dilation {same(layer.dilation)}"
        parser.error(f"--conv: the kernel must fit into the padded input {padded}, got {r} x {s}{dilated}")
    return n, layer


def _check_memory(parser, options):
    """Before the machine is asked for more than it has: some systems kill a process for that."""
    if not hasattr(os, "sysconf"):
        return
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = [layer_bytes(layer, options.batch or n) for n, layer in ([options.own] if options.own else [])]
    for case in options.selected:
        batch = options.batch or GROUPS[case.group].batch
        layers = (
            [layer for layer in NETWORKS[case.group].layers if layer.name == case.name]
            if case.group in NETWORKS
            else []
        )
        needed += [layer_bytes(layer, batch) for layer in layers] or [batch * BYTES_AN_IMAGE]
    if max(needed, default=0) > there:
        parser.error(f"these sizes need about {max(needed) / 1e9:.0f} GB, this machine has {there / 1e9:.0f} GB")


def layer_bytes(layer, batch):
    """Two layouts and float64 of every operand, and the rows of windows that torch makes of an image in float64."""
    p, q = layer.output_size()
    fan_in = layer.c // layer.groups * layer.r * layer.s
    return 32 * batch * (layer.c * layer.h * layer.w + layer.k * p * q) + 8 * fan_in * (layer.k + layer.groups * p * q)


def _check_whole(parser, options):
    """A table of the file is replaced as a whole."""
    parts = [word for word in options.cases if "/" in word]
    if parts and options.json and options.json.is_file():
        group = parts[0].partition("/")[0]
        parser.error(
            f"--json: {parts[0]} would replace all of {group} in {options.json}: name the group, or a new file"
        )


def check_picture(parser, path):
    check_file(parser, "picture", path)
    if path is not None and path.suffix != ".svg":
        parser.error(f"--picture: must end in .svg, got {path.name}")
