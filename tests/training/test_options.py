"""Any value of any option, from the command line or a YAML file: it works, or one sentence says why not."""

import math
from dataclasses import fields

import pytest
from training_runs import train

from torch_manual_conv.training import cli, config
from torch_manual_conv.training.config import ConfigError, TrainConfig

OPTIONS = [f for f in fields(TrainConfig) if f.name != "data"]
WORDS = ["", " ", "0", "-1", "-5", "1e999", "inf", "-inf", "nan", "9" * 25, "9" * 5000, "1e-999", "0x10", "true",
         "None", "1.5", "--", "-",
         "~nobody-of-this-name", "a\nb", "\x1b[31m", "ä\udcff", "%s", "{}", "x" * 5000]  # fmt: skip
VALUES = [None, True, -1, 0, 10**30, 1 << 100_000, math.nan, math.inf, -math.inf, -1e-300, 1e300, "",
          "~nobody-of-this-name", "a\0b", "nan", "x" * 5000, [], {}, (), [[[[]]]], b"bytes", 1j]  # fmt: skip


def sentence(text):
    assert text.strip() and text.count("\n") <= 1 and "Traceback" not in text
    return True


def is_sane(found):
    """Whether a resolved config can be used: every value of its type, finite and within its interval."""
    for f in fields(TrainConfig):
        value = getattr(found, f.name)
        assert value is None or type(value) is config.value_type(f.name)
        assert not isinstance(value, float) or math.isfinite(value)
        assert not f.metadata["within"] or value is None or config.broken_rule(value, f.metadata["within"]) is None
    return True


@pytest.mark.parametrize("option", OPTIONS, ids=lambda f: f.name)
def test_words_on_the_command_line(option, capsys):
    refused = 0
    for word in WORDS:
        try:
            options = vars(config.build_parser().parse_args([config.flag(option.name), word]))
            assert is_sane(TrainConfig(**options).resolved())
        except SystemExit as stop:
            refused += 1
            assert stop.code == 2 and sentence(capsys.readouterr().err)
        except ConfigError as error:
            refused += 1
            assert sentence(str(error))
    assert refused >= 3


@pytest.mark.parametrize("option", fields(TrainConfig), ids=lambda f: f.name)
def test_values_in_a_file(option):
    for value in VALUES:
        try:
            values = config.parse_values({option.name: value}, "config.yaml")
            assert is_sane(TrainConfig(**values).resolved())
        except ConfigError as error:
            assert sentence(str(error)) and len(str(error)) < 6000


@pytest.mark.parametrize(
    "words, message",
    [
        ("--warmup-epochs inf", "--warmup-epochs must be at most 1e9; got inf"),
        ("--warmup-epochs nan", "--warmup-epochs must be 0 or more; got nan"),
        ("--step-factor -5", "--step-factor must be in (0, 1]; got -5.0"),
        ("--weight-decay inf", "--weight-decay must be at most 1e38; got inf"),
        ("--epochs -1", "--epochs must be at least 1; got -1"),
        ("--batch-size 0", "--batch-size must be at least 1; got 0"),
        ("--lr 0", "--lr must be positive; got 0.0"),
        ("--lr 1e39", "--lr must be at most 1e38; got 1e+39"),
        ("--seed 18446744073709551616", "--seed must be below 18446744073709551616; got 18446744073709551616"),
        ("--workers 100000", "--workers must be at most 256; got 100000"),
        ("--momentum 1", "--momentum must be in [0, 1); got 1.0"),
        ("--resume=", "--resume: must be a path, got ''"),
        ("--out ~nobody-of-this-name/x", "the home folder in ~nobody-of-this-name/x is not known"),
    ],
)
def test_ranges_are_said(words, message, capsys):
    assert train(*words.split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("seed", [-(2**63), 2**64 - 1])
def test_every_seed_that_is_taken_works(seed):
    from torch_manual_conv.training import data, engine

    found = TrainConfig(synthetic=True, width=0.1, seed=seed).resolved()
    engine.build_model(found, data.open_data(found))


@pytest.mark.parametrize(
    "text",
    [b"\xff\xfe", b"\0", b"a: b: c", b"!!python/object/apply:os.system [ls]", b"lr: !!timestamp x", b"lr: 2026-13-45",
     b"lr: !!float x", b"? [1]\n: 2", b"[" * 5000, b"seed: " + b"9" * 5000, b"seed: 0x" + b"f" * 9000,
     b"epochs: 3\n---\n4", b"- 1", b"null", b"", b"1: 2", b"epochs: null\nmomentum: null", b"epochs: &a [*a]",
     b"a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + b"\n".join(b"%c: &%c [*%c, *%c, *%c, *%c]" % (i, i, *[i - 1] * 4) for i in
     range(98, 118)) + b"\nepochs: *u"],
    ids=range(19),
)  # fmt: skip
def test_nonsense_in_yaml(text, tmp_path, capsys):
    (tmp_path / "config.yaml").write_bytes(text)
    assert train("--config", tmp_path / "config.yaml") == 2
    assert sentence(capsys.readouterr().err)


def test_a_learning_rate_in_yaml_may_be_1e_3(tmp_path):
    """For YAML 1.1 it is a word, as there is no point in it."""
    (tmp_path / "config.yaml").write_text("lr: 1e-3")
    assert cli.read_yaml(tmp_path / "config.yaml") == {"lr": 1e-3}


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = TrainConfig(data="~/photos", out="~/run", resume="~/old").resolved()
    assert (found.data, found.out, found.resume) == tuple(str(tmp_path / name) for name in ("photos", "run", "old"))


def test_a_folder_of_images_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert TrainConfig(data="photos").resolved().record()["data"] == str(tmp_path / "photos")
