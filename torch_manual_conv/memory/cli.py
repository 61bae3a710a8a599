"""The command: runs a model forward and backward, and says what each layer kept in between, and why."""

import argparse
import shlex
import sys
from contextlib import nullcontext

import torch

from .. import _command
from .._command import check_file, file_option, write_text
from ..bench import machine
from ..bench.options import at_least, check_picture
from ..bench.results import dumps
from . import report
from .ledger import PARAMETER, Ledger
from .model import OWN, USUAL_INPUT, ModelError, first_line, load, tensors_in, variants
from .peak import peak_bytes
from .reasons import reason

PROG = "python -m torch_manual_conv.memory"
DESCRIPTION = """\
What does training keep in memory? Runs MODEL forward and backward through
torch's layers, through ours, and through ours with stages fused; counts what
autograd saves, once for each storage, and says for each layer what it keeps and
what for.
"""
EPILOG = f"""\
examples, after {PROG}:
  alexnet
  torchvision.models:resnet18 --input 8 3 224 224
  my_package.my_module:make_model --input 32 1 28 28 --dtype bfloat16
  alexnet --picture memory.svg --json memory.json

exit code: 0 done, 2 wrong command line, or a model that cannot be run
"""
DTYPES = ("float32", "float64", "bfloat16", "float16")


def main(argv=None):
    return _command.run(PROG, lambda: run(sys.argv[1:] if argv is None else argv))


def run(argv):
    parser = build_parser()
    options = parser.parse_args(argv)
    check_file(parser, "json", options.json)
    check_picture(parser, options.picture)
    try:
        command = shlex.join([*PROG.split(), *argv])
        results = {"environment": machine.environment(command), **collect(options.model, options.input, options.dtype)}
    except ModelError as error:
        parser.error(str(error))
    report.show(results)
    if options.json:
        write_text(options.json, dumps(results))
    if options.picture:
        write_text(options.picture, report.draw(results))
    return 0


def build_parser():
    parser = _command.Parser(
        prog=PROG,
        usage="%(prog)s MODEL [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=f"{', '.join(OWN)}, or package.module:factory")
    parser.add_argument(
        "--input", nargs="+", type=at_least(1), metavar="SIZE", help="default: 1 3 224 224, or the model's"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="half types by autocast; default: float32")
    parser.add_argument("--json", type=file_option, metavar="FILE", help="everything that is counted")
    parser.add_argument("--picture", type=file_option, metavar="FILE", help="an SVG of bars: what each layer keeps")
    return parser


def collect(name, size=None, dtype="float32", with_peak=True):
    """What each variant of the model keeps."""
    model = load(name)
    size = size or OWN.get(name, (None, USUAL_INPUT))[1]
    return {
        "model": name,
        "input": list(size),
        "dtype": dtype,
        "layers": {name: type(layer).__name__ for name, layer in model.named_modules()},
        "variants": {name: keep(variant, size, dtype, with_peak) for name, variant in variants(model).items()},
    }


def keep(model, size, dtype, with_peak=True):
    """What autograd saves in one forward pass, tensor by tensor, and the peak of a forward and backward pass."""
    autocast = nullcontext()
    if dtype == "float64":
        model = model.double()
    elif dtype != "float32":
        autocast = torch.autocast("cpu", getattr(torch, dtype))

    def forward():
        with autocast:
            return tensors_in(model(images))

    def forward_and_backward():
        sum(output.square().mean() for output in forward() if output.requires_grad).backward()

    try:
        images = torch.rand(size, generator=torch.Generator().manual_seed(0))
        images = images.double() if dtype == "float64" else images
        ledger = Ledger()
        with ledger.listening(model):
            outputs = forward()
        if not any(output.requires_grad for output in outputs):
            raise ModelError("nothing to train: no output of the model needs a gradient")
        ledger.settle([*model.parameters(), *model.buffers()], [images])
        ledger.name_roles(outputs)
        rows = [_row(entry) for entry in ledger.entries if entry.holder != PARAMETER]
        del ledger, outputs
        peak = None
        if with_peak:
            forward_and_backward()  # libraries prepare themselves once
            model.zero_grad(set_to_none=True)
            peak = peak_bytes(forward_and_backward)
    except ModelError:
        raise
    except Exception as error:  # whatever the model does
        raise ModelError(f"cannot train on an input of shape {list(size)}: {first_line(error)}") from error
    return {"saved_bytes": sum(row["bytes"] for row in rows), "peak_bytes": peak, "saved": rows}


def _row(entry):
    name, why = reason(entry)
    return {
        "layer": entry.layer,
        "tensor": name,
        "why": why,
        "shape": list(entry.tensor.shape),
        "dtype": str(entry.tensor.dtype).removeprefix("torch."),
        "bytes": entry.nbytes,
        "held_by": entry.holder,
    }
