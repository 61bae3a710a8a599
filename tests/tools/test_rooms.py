"""The rooms of csrc/: which folder may include which, read from the includes; and what opens each room."""

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"

# Room: its opener, and the rooms it may include beside itself and the files of csrc/ itself. Folders within a room are
# rooms of their own.
ROOMS = {
    "cpu/machine": ("machine.h", ()),
    "cpu/lanes": ("lanes.h", ("cpu/machine",)),
    "cpu/image": ("image.h", ("cpu/machine", "cpu/lanes")),
    "cpu/gemm": ("gemm.h", ("cpu/machine", "cpu/lanes", "cpu/image")),
    "cpu/conv2d": ("algorithm.h", ("cpu/machine", "cpu/lanes", "cpu/image", "cpu/gemm")),
    "cpu/conv2d/direct": ("direct.h", ("cpu/machine", "cpu/lanes", "cpu/image", "cpu/conv2d")),
    "cpu/conv2d/winograd": ("winograd.h", ("cpu/machine", "cpu/lanes", "cpu/image", "cpu/conv2d")),
    "cpu/conv2d/depthwise": ("depthwise.h", ("cpu/machine", "cpu/lanes", "cpu/image", "cpu/conv2d")),
    "cpu/pool2d": ("plan.h", ("cpu/machine", "cpu/lanes")),
    "cpu/elementwise": ("run.h", ("cpu/machine", "cpu/lanes")),
    "cpu/stage": ("stage.h", ("cpu/machine", "cpu/image", "cpu/conv2d", "cpu/pool2d", "cpu/elementwise")),
    "cuda/machine": ("primitives.h", ()),
    "cuda/gemm": ("implicit_gemm.cuh", ("cuda/machine",)),
    "cuda/conv2d": ("launchers.h", ("cuda/machine", "cuda/gemm")),
    "cuda/pool2d": ("launchers.h", ("cuda/machine",)),
    "cuda/elementwise": ("launchers.h", ("cuda/machine",)),
    "cuda/stage": (
        "launchers.h",
        ("cuda/machine", "cuda/gemm", "cuda/conv2d", "cuda/pool2d", "cuda/elementwise"),
    ),
}
# The entry points of a backend see all of its rooms; the files of csrc/ itself see no backend.
FILES = sorted(f for f in CSRC.rglob("*") if f.suffix in (".h", ".cpp", ".cu", ".cuh"))
# A fused stage is made of whole operators: of their rooms it sees only these doors.
DOORS_FOR_STAGES = {
    "cpu/conv2d": {"core.h"},
    "cpu/pool2d": {"core.h", "winners.h"},
    "cpu/elementwise": {"activations.h"},
}


def room_of(path):
    """cpu/conv2d/direct for csrc/cpu/conv2d/direct/direct.h; cpu for an entry point; "" for a file of csrc/."""
    return path.relative_to(CSRC).parent.as_posix().removeprefix(".")


def includes(path):
    return re.findall(r'^#include "([^"]+)"', path.read_text(), re.M)


def wrong_arrow(path, name):
    """Why `path` may not include `name`, or None."""
    if not (CSRC / name).exists():
        harness = ("emulated_", "fibers", "recorder", "amx_tiles_emulated")  # of the tests, in the machine's place
        return None if name.startswith(harness) else "no path from csrc/"
    room, to = room_of(path), room_of(CSRC / name)
    if to in ("", room):
        return None
    if room == "":
        return "files of both backends include none of one"
    if room in ("cpu", "cuda"):
        return None if to.startswith(f"{room}/") else "of the other backend"
    if to not in ROOMS[room][1]:
        return f"{room} sees only {', '.join(ROOMS[room][1]) or 'csrc/ itself'}"
    doors = DOORS_FOR_STAGES.get(to, {Path(name).name}) if room == "cpu/stage" else {Path(name).name}
    return None if Path(name).name in doors else f"a stage sees only {', '.join(doors)} of {to}"


def test_includes_point_one_way():
    arrows = [(f, name, wrong_arrow(f, name)) for f in FILES for name in includes(f)]
    wrong = [f"{f.relative_to(CSRC)} includes {name}: {why}" for f, name, why in arrows if why]
    assert len(arrows) > 300 and not wrong, "\n".join(wrong)


def test_no_file_includes_itself_by_another():
    """A cycle among files: the way back to the first is named."""
    graph = {f.relative_to(CSRC).as_posix(): includes(f) for f in FILES}

    def walk(name, way):
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in graph.get(name, ()):
                walk(other, [*way, name])
            done.add(name)

    done = set()
    for name in graph:
        walk(name, [])


def test_every_folder_is_a_room():
    folders = {f.relative_to(CSRC).as_posix() for f in CSRC.rglob("*") if f.is_dir()}
    assert folders - {"cpu", "cuda"} == ROOMS.keys()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_opens_with_what_it_does(room):
    """Its first file says in some ten lines what the room does, what goes in, what comes out and what bounds it."""
    opener = CSRC / room / ROOMS[room][0]
    header = re.match(r"(//[^\n]*\n)*", opener.read_text())[0]
    assert header.count("\n") >= 6, f"{opener} should open its room with a header of six lines or more"
