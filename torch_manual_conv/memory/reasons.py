"""What a saved tensor is to its layer, and what backward needs it for, in words. Equations: docs/derivations.md."""

from ..ops._elementwise import OPERATORS

SIZES_ONLY = ("input", "torch keeps it, though backward only reads its sizes")
FOR_WEIGHT = ("input", "for the gradient of weight")
FOR_INPUT = ("weight", "for the gradient of input")
SLOPE = ("input", "the activation's slope depends on it")
PLACES = "where each maximum is, {bytes} a pooled value"
FACTOR = ("factor", "for the gradient of the other factor")

# (autograd node, role there) -> (the tensor's name in its layer, what it is for). Nodes without their trailing number.
REASONS = {
    ("ConvolutionBackward", "input"): ("input", "for the gradient of weight (eq. 3)"),
    ("Conv2dFunctionBackward", "0"): ("input", "for the gradient of weight (eq. 3)"),
    ("ConvolutionBackward", "weight"): ("weight", "for the gradient of input (eq. 5)"),
    ("Conv2dFunctionBackward", "1"): ("weight", "for the gradient of input (eq. 5)"),
    ("Conv2dGradInputFunctionBackward", "0"): ("input", "for the gradient of weight (eq. 20)"),
    ("Conv2dGradInputFunctionBackward", "1"): ("weight", "for the gradient of input (eq. 20)"),
    ("ConvActPool2dFunctionBackward", "0"): ("input", "for the gradient of weight (eq. 3)"),
    ("ConvActPool2dFunctionBackward", "1"): ("weight", "for the gradient of input (eq. 5)"),
    ("ConvActPool2dFunctionBackward", "2"): ("bias", "to compute the map before the pool again"),
    ("ConvActPool2dFunctionBackward", "3"): ("activation", "its slope depends on its value"),
    ("ConvActPool2dFunctionBackward", "4"): ("winners", PLACES + " (eq. 8)"),
    ("ConvActPool2dFunctionBackward", "5"): ("mask", "where relu stops the gradient, {bytes} a pooled value"),
    ("MaxPool2DWithIndicesBackward", "self"): SIZES_ONLY,
    ("MaxPool2DWithIndicesBackward", "result1"): ("indices", PLACES),
    ("MaxPool2dFunctionBackward", "0"): ("winners", PLACES + " (eq. 8)"),
    ("AdaptiveMaxPool2DBackward", "self"): SIZES_ONLY,
    ("AdaptiveMaxPool2DBackward", "result1"): ("indices", PLACES),
    ("AdaptiveMaxPool2dFunctionBackward", "0"): ("winners", PLACES + " (eq. 8)"),
    ("AvgPool2DBackward", "self"): SIZES_ONLY,
    ("AdaptiveAvgPool2DBackward", "self"): SIZES_ONLY,
    ("ReluBackward", "result"): ("output", "the gradient passes where it is positive"),
    ("SigmoidBackward", "result"): ("output", "the slope is (1 - y) y (eq. 12)"),
    ("TanhBackward", "result"): ("output", "the slope is 1 - y^2"),
    ("EluBackward", "self_or_result"): SLOPE,
    ("GeluBackward", "self"): SLOPE,
    ("HardsigmoidBackward", "self"): SLOPE,
    ("HardswishBackward", "self"): SLOPE,
    ("HardtanhBackward", "self"): SLOPE,
    ("LeakyReluBackward", "self"): SLOPE,
    ("SiluBackward", "self"): SLOPE,
    ("AddmmBackward", "mat1"): FOR_WEIGHT,
    ("AddmmBackward", "mat2"): FOR_INPUT,
    ("NativeBatchNormBackward", "input"): ("input", "to be normalised again"),
    ("NativeBatchNormBackward", "result1"): ("mean", "of the batch"),
    ("NativeBatchNormBackward", "result2"): ("1 / deviation", "of the batch"),
    ("NativeLayerNormBackward", "input"): ("input", "to be normalised again"),
    ("NativeLayerNormBackward", "result1"): ("mean", "of each sample"),
    ("NativeLayerNormBackward", "result2"): ("1 / deviation", "of each sample"),
    ("NativeDropoutBackward", "result1"): ("mask", "which values were dropped"),
    ("MulBackward", "self"): FACTOR,
    ("MulBackward", "other"): FACTOR,
    ("DivBackward", "self"): ("dividend", "for the gradient of the divisor"),
    ("DivBackward", "other"): ("divisor", "for the gradient of the dividend"),
    ("PowBackward", "self"): ("input", "the power's slope depends on it"),
    ("LogSoftmaxBackward", "result"): ("output", "the gradient is grad - exp(y) sum(grad)"),
    ("SoftmaxBackward", "result"): ("output", "the gradient is y (grad - sum(grad y))"),
} | {(operator.node, "0"): operator.saves for operator in OPERATORS.values() if operator.saves}


def reason(entry):
    """(the tensor's name in its layer, what it is for) of a ledger's entry."""
    if not entry.node:
        return "a tensor", "its autograd node does not say what for"
    name, why = REASONS.get((entry.node.rstrip("0123456789"), entry.role), (entry.role, f"asked for by {entry.node}"))
    size = entry.tensor.element_size()
    return name, why.format(bytes="1 byte" if size == 1 else f"{size} bytes")
