"""What the commands share: checked options, files that are replaced whole, and an end that is one sentence.

A user meets full disks, signals, closed pipes and odd environments, and each is said in a line on stderr. What is left
over is a mistake of ours and keeps its traceback.
"""

import argparse
import difflib
import errno
import json
import math
import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

SPECIAL = ("/dev/std", "/dev/fd/", "/proc/")


class RunError(Exception):
    """A command cannot begin or go on, for a reason that its message tells the user."""

    exit_status = 2


class WriteError(RunError, OSError):
    """A file could not be written; the one that was there before is still there."""

    exit_status = 1


class Terminated(KeyboardInterrupt):
    """SIGTERM; libraries give way to it as they do to Ctrl-C."""


# ---- Options.


class Parser(argparse.ArgumentParser):
    """Errors take one line, which the usage would bury, and name the nearest option when one is mistyped."""

    may_say = staticmethod(lambda message: True)

    def error(self, message):
        message = one_line(message)
        self.exit(2, f"{self.prog}: error: {message}\n" if self.may_say(message) else None)

    def parse_args(self, argv=None):
        options, unknown = self.parse_known_args(argv)
        if unknown:
            self.unknown(unknown[0])
        return options

    def unknown(self, argument):
        known = [text for action in self._actions for text in action.option_strings]
        self.error(f"unknown argument {argument}{did_you_mean(argument.split('=')[0], known)}")


def did_you_mean(word, known):
    near = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {near[0]}?" if near else ""


def file_path(text):
    """A path from the command line or a file, `~` expanded. Raises: ValueError where it can name nothing."""
    path = os.path.expanduser(text)
    if not path or "\0" in path:
        raise ValueError(f"must be a path, got {text!r}")
    if path.startswith("~"):
        raise ValueError(f"must be a path; the home folder in {text} is not known (./{text} is a file of that name)")
    return path


def file_option(text):
    """For add_argument(type=...)."""
    try:
        return Path(file_path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_file(parser, name, path):
    """Before minutes of measuring: can the file be written?"""
    if path is None:
        return
    if not path.parent.is_dir():
        parser.error(f"--{name}: no such folder: {path.parent}")
    if path.is_dir():
        parser.error(f"--{name}: must be a file, got the folder {path}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        parser.error(f"--{name}: {path} cannot be written")


# ---- Files.


@contextmanager
def replacing(path):
    """A binary file to write to. After the block `path` is the new file, or the old one if anything went wrong.

    Raises: WriteError instead of any OSError.
    """
    path = Path(path)
    is_special = str(path).startswith(SPECIAL) or (path.exists() and not path.is_file())  # a pipe: nothing to keep
    if not is_special:
        path = Path(os.path.realpath(path))  # a link goes on pointing there
    temporary = path if is_special else path.with_name(path.name + ".tmp")
    try:
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                if not is_special:
                    os.fsync(file.fileno())
            if not is_special:
                os.replace(temporary, path)
        except BaseException:
            if not is_special:
                with suppress(OSError):
                    temporary.unlink()
            raise
    except (OSError, RuntimeError) as error:  # torch's zip writer hides the OSError of its file behind its own error
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise WriteError(f"{path} could not be written: {cause.strerror or cause}") from error
    with suppress(OSError):  # some file systems cannot
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, survives a power cut
        finally:
            os.close(folder)


def write_text(path, text):
    with replacing(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def to_json(value, **layout):
    """JSON, in which a float that is no number is null: the standard has no NaN."""
    return json.dumps(_without_nan(value), allow_nan=False, **layout)


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- The end.


def run(prog, work, may_say=lambda message: True):
    """Returns work()'s exit status, or that of what ended it, which is said if `may_say` agrees."""
    _prepare_streams()
    stop = None
    with _signals_raise():
        try:
            try:
                status = work()
            except SystemExit as error:  # argparse has said why, or has printed its help
                stop = error
            sys.stdout.flush()
        except (Exception, KeyboardInterrupt) as error:
            found = _sentence(error)
            if found is None:
                raise
            message, status = found
            _drop_what_cannot_be_printed()
            message = one_line(message + getattr(error, "hint", ""))
            if may_say(message):
                with suppress(OSError):
                    print(f"{prog}: error: {message}", file=sys.stderr, flush=True)
    if stop is not None:
        raise stop
    return status


def _sentence(error):
    """(message, exit status); None for a mistake of ours."""
    text = str(error)
    if isinstance(error, RunError):
        return text, error.exit_status
    if isinstance(error, Terminated):
        return "terminated", 128 + signal.SIGTERM
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 128 + signal.SIGINT
    if isinstance(error, BrokenPipeError):
        return "nobody reads the output any more", 128 + signal.SIGPIPE
    if isinstance(error, OSError):
        reason = error.strerror or text or type(error).__name__
        return (f"{os.fsdecode(error.filename)}: {reason}" if _is_path(error.filename) else reason), 1
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        asked = text.rpartition("allocate memory: ")[2].partition(". Error code")[0].partition("\n")[0]
        return f"not enough memory{': ' if asked else ''}{asked}", 1
    if isinstance(error, RuntimeError) and text.startswith("TMC_"):  # an environment variable of our kernels
        return text.partition("\n")[0], 2
    return None


def _is_path(filename):
    return isinstance(filename, (str, bytes))


def one_line(message):
    return printable(" ".join(message.split()))


def printable(text):
    """For a message: what a name may hold beside readable characters, line ends and terminal codes say, is escaped."""
    text = str(text)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _prepare_streams():
    """Printing must not fail on a name with undecodable bytes, nor where the shell has closed a stream."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _drop_what_cannot_be_printed():
    """Else the interpreter tries again at its end, and complains."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _signals_raise():
    """The first SIGTERM and Ctrl-C raise. `timeout` sends two of the one; a second of the other is meant to kill."""

    def terminate(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    def interrupt(*_):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():  # of others signals are none of the business
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, terminate)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else a shell has it ignored
            before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
