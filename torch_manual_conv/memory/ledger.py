"""What autograd keeps for backward: counted by saved-tensor hooks, once for each storage, by the layer that keeps it.

torch calls a hook for every tensor that a forward pass saves; which layer is running then is known from forward hooks
on the modules. What the tensor is to its autograd node ("input", "result", ...) is found afterwards: reading a node's
saved attribute runs the unpack hook of just that entry.
"""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from ..fused import FusedRuns, Run, split


@dataclass(eq=False)
class Entry:
    """One tensor that one autograd node keeps."""

    tensor: torch.Tensor
    layer: str
    """The innermost module that was running, by its name in the model."""
    node: str = ""
    """The autograd node, e.g. ConvolutionBackward0."""
    role: str = ""
    """What the tensor is to the node: the saved attribute's name, or the place among saved_tensors."""
    nbytes: int = 0
    """Of its storage; 0 where that is counted elsewhere."""
    holder: str = ""
    """Where its storage is counted: a layer, PARAMETER or MODEL_INPUT."""


PARAMETER, MODEL_INPUT = "a parameter", "the model's input"  # in memory anyway, so not counted


class Ledger:
    """Entries in the order in which a forward pass saved them."""

    def __init__(self):
        self.entries, self._running, self._read = [], [], []

    @contextmanager
    def listening(self, model=None):
        """Records what is saved inside, and which of model's layers is running then."""
        with ExitStack() as stack:
            names = {module: name for name, module in model.named_modules()} if model is not None else {}
            together = set()  # layers that are computed in one call, as long as they have no hooks
            for fused in (module for module in names if isinstance(module, FusedRuns)):
                together |= {m for run in split(fused) if isinstance(run, Run) for m in (run.conv, *run.followers)}
                stack.enter_context(self._naming_runs(fused, names))
            for module, name in names.items():
                if module in together:
                    continue
                for handle in (
                    module.register_forward_pre_hook(lambda module, args, name=name: self._running.append(name)),
                    module.register_forward_hook(lambda module, args, output: self._leave(), always_call=True),
                ):
                    stack.callback(handle.remove)
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack))
            yield self

    @contextmanager
    def _naming_runs(self, fused, names):
        """A run is the layer of its convolution."""

        def compute(run, input):
            self._running.append(names[run.conv])
            try:
                return type(fused).compute(fused, run, input)
            finally:
                self._leave()

        fused.compute = compute
        yield
        del fused.compute

    def _leave(self):
        self._running.pop()

    def _pack(self, tensor):
        entry = Entry(tensor, self._running[-1] if self._running else "")
        self.entries.append(entry)
        return entry

    def _unpack(self, entry):
        self._read.append(entry)
        return entry.tensor

    def settle(self, parameters=(), inputs=()):
        """Counts each storage once, at its first entry."""
        holders = {storage_key(tensor): MODEL_INPUT for tensor in inputs}
        holders |= {storage_key(tensor): PARAMETER for tensor in parameters}
        for entry in self.entries:
            key = storage_key(entry.tensor)
            if key not in holders:
                holders[key] = entry.layer
                entry.nbytes = entry.tensor.untyped_storage().nbytes()
            entry.holder = holders[key]
        return self

    def total(self):
        return sum(entry.nbytes for entry in self.entries)

    def name_roles(self, outputs):
        """Fills in node and role of the entries of the graph that ends in `outputs`."""
        for node in _nodes([output.grad_fn for output in outputs]):
            for role, read in _saved_attributes(node):
                self._read.clear()
                try:
                    places = read()
                except RuntimeError:  # overwritten since: backward would fail as well
                    continue
                for place, entry in zip(places, self._read, strict=True):
                    entry.node, entry.role = node.name(), role if role else str(place)


def storage_key(tensor):
    return tensor.device, tensor.untyped_storage().data_ptr()


def saved_bytes(call, parameters=()):
    """Bytes that autograd keeps when call() runs, parameters aside."""
    ledger = Ledger()
    with ledger.listening():
        result = call()  # named, so that nothing is freed before it is counted
        total = ledger.settle(parameters).total()
        del result
    return total


def _nodes(roots):
    seen, todo = set(), [node for node in roots if node is not None]
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            yield node
            todo += [below for below, _ in node.next_functions if below is not None]


def _saved_attributes(node):
    """(role, function that reads it and returns the places of the tensors read) of whatever a node may have saved."""
    if hasattr(node, "saved_tensors"):  # of an autograd.Function: known by place alone, None where nothing was saved
        yield "", lambda: [place for place, tensor in enumerate(node.saved_tensors) if tensor is not None]
    for name in dir(node):
        if name.startswith("_saved_"):
            yield name.removeprefix("_saved_"), lambda name=name: _tensors_in(getattr(node, name))


def _tensors_in(value):
    values = value if isinstance(value, (list, tuple)) else [value]
    return [place for place, item in enumerate(values) if isinstance(item, torch.Tensor)]
