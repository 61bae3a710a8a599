"""verify must find what is broken: operators are broken here on purpose, one way at a time."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from itertools import count

import pytest
import torch

from torch_manual_conv import _accuracy, functional, has_cuda, verify

SIGMOID = ["--device", "cpu", "--op", "sigmoid", "--case", "plain"]
CALLS = count()
sigmoid = functional.sigmoid


def run(*arguments, **environment):
    command = [sys.executable, "-m", "torch_manual_conv.verify", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def status_of(out, line):
    """The last word of the report's line that begins with `line`."""
    (found,) = re.findall(rf"^  {re.escape(line)} .*?(\w+)$", out, re.M)
    return found


def test_everything_passes(tmp_path):
    done = run("--json", str(tmp_path / "verify.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 100
    data = json.loads((tmp_path / "verify.json").read_text())
    assert data["passed"]
    assert {c["op"] for c in data["checks"]} == set(functional.__all__)
    assert {c["dtype"] for c in data["checks"]} == set(verify.DTYPES)
    assert not any(any(claims.values()) for claims in data["determinism"].values())


def test_every_gradient_is_compared():
    for op in functional.__all__:
        case = next(case for case in _accuracy.CASES if case.op == op)
        wanted = {"output"} | {f"grad_{name}" for name in case.tensors}
        if op == "conv2d":
            wanted |= {"2nd by grad_output", "2nd by input", "2nd by weight"}
        assert {c.result for c in _accuracy.check(case, "cpu", "float32", 0)} == wanted


def test_case_names_are_unique():
    names = [(case.op, case.name) for case in _accuracy.CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("broken_in", verify.DTYPES)
def test_finds_wrong_values(broken_in, monkeypatch, capsys):
    monkeypatch.setattr(functional, "sigmoid", lambda x: sigmoid(x) * 1.02)
    assert verify.main([*SIGMOID, "--dtype", broken_in]) == 1
    out = capsys.readouterr().out
    assert status_of(out, "output") == "FAIL"
    (repro,) = set(re.findall(r"^    python -m torch_manual_conv.verify (.*)$", out, re.M))
    assert verify.main(shlex.split(repro)) == 1


def test_finds_a_wrong_gradient(monkeypatch, capsys):
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    monkeypatch.setattr(functional, "sigmoid", lambda x: Doubled.apply(sigmoid(x)))
    assert verify.main(SIGMOID) == 1
    out = capsys.readouterr().out
    assert status_of(out, "output") == "pass"
    assert status_of(out, "grad_input") == "FAIL"


def test_finds_sums_in_bfloat16(monkeypatch, capsys):
    """The mistake that looks most like rounding: products of bfloat16 added up in bfloat16."""

    def conv1x1(input, weight, bias):
        products = (input[:, None, c] * weight[:, c] for c in range(weight.size(1)))
        return sum(products, bias[:, None, None])

    monkeypatch.setattr(functional, "conv2d", conv1x1)
    arguments = ["--device", "cpu", "--op", "conv2d", "--case", "1x1", "--dtype"]
    assert verify.main([*arguments, "bfloat16"]) == 1
    assert status_of(capsys.readouterr().out, "output") == "FAIL"
    assert verify.main([*arguments, "float32"]) == 0


@pytest.mark.parametrize(
    "broken, status, message",
    [
        (lambda x: sigmoid(x) * float("nan"), "FAIL", "error nan eps"),
        (lambda x: sigmoid(x)[..., :-1], "ERROR", r"RuntimeError: "),
        (lambda x: sigmoid(x).double(), "ERROR", r"returned \[3, 7, 11, 13\] torch.float64, expected"),
        (lambda x: undefined, "ERROR", "NameError: name 'undefined'"),  # noqa: F821
    ],
    ids=["nan", "shape", "dtype", "raises"],
)
def test_finds_useless_results(broken, status, message, monkeypatch, capsys):
    monkeypatch.setattr(functional, "sigmoid", broken)
    assert verify.main([*SIGMOID, "--dtype", "float32"]) == 1
    out = capsys.readouterr().out
    assert status_of(out, "output") == status
    assert re.search(message, out)


@pytest.mark.parametrize(
    "claim, noise",
    [
        ("two runs", lambda x: next(CALLS) % 2),
        ("1 thread and 2 threads", lambda x: torch.get_num_threads()),
        ("a sample in its batch and alone", lambda x: len(x) > 1),
    ],
)
def test_finds_unequal_bits(claim, noise, monkeypatch, capsys):
    """A last bit that depends on what it must not: too small to be an error, so the table passes."""
    monkeypatch.setattr(functional, "sigmoid", lambda x: sigmoid(x) * (1 + 2.0**-52 * noise(x)))
    assert verify.main([*SIGMOID, "--dtype", "float64"]) == 1
    out = capsys.readouterr().out
    assert status_of(out, "output") == "pass"
    assert status_of(out, claim) == "FAIL"
    assert "--op sigmoid --case plain --dtype float64" in out


def test_distrusts_zeros(monkeypatch, capsys):
    monkeypatch.setitem(_accuracy.TWINS, "sigmoid", lambda x: x * 0)
    monkeypatch.setattr(functional, "sigmoid", lambda x: x * 0)
    assert verify.main([*SIGMOID, "--dtype", "float32"]) == 1
    assert status_of(capsys.readouterr().out, "output") == "MISTRUSTED"


def test_terms_are_counted():
    """conv2d sums C * R * S products and a bias, grad_input at most K * R * S, grad_weight and grad_bias N * P * Q."""
    case = next(case for case in _accuracy.CASES if case.name == "wide")
    (n, c, h, w), (k, _, r, s) = case.tensors["input"], case.tensors["weight"]
    terms = _accuracy.count_terms(case, _accuracy.problem(case, torch.float32, 0))
    assert terms["output"] == c * r * s + 1
    assert terms["grad_input"] == k * r * s
    assert terms["grad_bias"] == terms["grad_weight"] == n * h * w


def test_limit_is_the_rule():
    case = next(case for case in _accuracy.CASES if case.name == "wide")
    eps = torch.finfo(torch.float32).eps
    for check in _accuracy.check(case, "cpu", "bfloat16", 0):
        rounding = torch.finfo(torch.bfloat16).eps + eps * check.terms**0.5
        assert check.limit == max(2 * check.torch_error, rounding)


def test_error_is_relative_to_the_largest():
    reference = torch.tensor([1.0, -4.0], dtype=torch.float64)
    assert _accuracy.relative_error(torch.tensor([1.5, -4.0]), reference, torch.float32) == 0.125


def test_other_seed_is_another_problem():
    case = replace(_accuracy.CASES[0], tensors={"input": (1, 1, 11, 11), "weight": (1, 1, 11, 11), "bias": (1,)})
    (first, _, _), (other, _, _) = (_accuracy.problem(case, torch.float32, seed) for seed in (0, 1))
    assert not torch.equal(first["input"], other["input"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--op", "conv2"], r"unknown op 'conv2': did you mean conv2d\? known: conv2d, conv1d, .*conv_act_pool2d"),
        (["--op", "softmax_cross_entropy"], "unknown op 'softmax_cross_entropy': .*known: conv2d"),
        (["--op", "conv1d", "--case", "unevn"], r"unknown case 'unevn': did you mean uneven\? known: plain, uneven$"),
        (["--dtype", "float8"], r"unknown dtype 'float8': did you mean float\d+\? known: float64"),
        (["--device", "tpu"], "unknown device 'tpu': .*known: cpu, cuda"),
    ],
)
def test_rejects_unknown_words(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        verify.main(arguments)
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err, re.M)


@pytest.mark.skipif(has_cuda and torch.cuda.is_available(), reason="this machine has a usable CUDA device")
def test_rejects_absent_cuda(capsys):
    with pytest.raises(SystemExit) as stopped:
        verify.main(["--device", "cuda"])
    assert stopped.value.code == 2
    assert re.search("--device cuda: kernels (not built|loaded, but)", capsys.readouterr().err)


@pytest.mark.parametrize("isa", ["base", torch.ops.tmc.cpu_isa()])
def test_isa_is_forced(isa):
    """Whatever name it prints may be asked for: a printed command runs."""
    done = run(*SIGMOID, "--isa", isa)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^cpu .*, {isa} kernels$", done.stdout, re.M)


@pytest.mark.parametrize("arguments, environment", [([], {"TMC_CPU_ISA": "abacus"}), (["--isa", "abacus"], {})])
def test_impossible_isa_is_an_error(arguments, environment):
    done = run(*SIGMOID, *arguments, **environment)
    assert done.returncode == 2
    assert done.stderr == "TMC_CPU_ISA: must be base, avx2, avx512, avx512_bf16 or amx, got abacus\n"


def test_help_explains(capsys):
    with pytest.raises(SystemExit) as stopped:
        verify.main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "max |result - reference| / max |reference|" in out
    assert "exit code" in out
