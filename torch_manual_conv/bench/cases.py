"""Everything that can be measured, by name: groups of cases, each made only when its turn comes."""

from typing import NamedTuple

from .networks import STAGES, STEPS, stage_problem, step_problem
from .overhead import CALLS, overhead_problem
from .pools import ADAPTIVE, KINDS, POOLS, SIGMOIDS, pool_problem, sigmoid_problem
from .problems import PASSES, conv_problem
from .shapes import NETWORKS

BOTH = ("forward", "grad_input")


class Group(NamedTuple):
    names: tuple
    passes: tuple
    batch: int
    problem: object
    note: str


GROUPS = {
    **{
        name: Group(tuple(layer.name for layer in network.layers), PASSES, network.batch, None, network.note)
        for name, network in NETWORKS.items()
    },
    "pools": Group(
        tuple(f"{kind} {place}" for kind in KINDS for place in (*POOLS, *ADAPTIVE)),
        BOTH,
        32,
        pool_problem,
        "max and average pooling, adaptive ones included",
    ),
    "sigmoid": Group(tuple(SIGMOIDS), BOTH, 32, sigmoid_problem, "the activation alone"),
    "stages": Group(
        tuple(STAGES),
        ("forward", "forward + backward"),
        32,
        stage_problem,
        "convolution, activation, max pool as one op beside torch's chain of three",
    ),
    "step": Group(
        tuple(STEPS),
        ("forward + backward",),
        32,
        step_problem,
        "AlexNet, fused: its convolutional part alone, and a full training step with SGD",
    ),
    "overhead": Group(
        tuple(CALLS), ("forward", "forward + backward"), 1, overhead_problem, "what a call costs on next to no data"
    ),
}


class Case(NamedTuple):
    group: str
    name: str
    what: str

    def problem(self, settings, batch=None):
        group = GROUPS[self.group]
        batch = batch or group.batch
        if self.group in NETWORKS:
            (layer,) = (layer for layer in NETWORKS[self.group].layers if layer.name == self.name)
            return conv_problem(settings, self.group, layer, batch, self.what)
        return group.problem(settings, self.group, self.name, batch, self.what)


def cases_of(word):
    """The cases that 'group' or 'group/name' stands for; [] if it stands for none."""
    group, _, name = word.partition("/")
    if group not in GROUPS:
        return []
    names = [n for n in GROUPS[group].names if not name or n == name]
    return [Case(group, n, what) for n in names for what in GROUPS[group].passes]


def words():
    """Every word that names cases."""
    return [*GROUPS, *(f"{group}/{name}" for group in GROUPS for name in GROUPS[group].names)]
