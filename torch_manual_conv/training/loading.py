"""A DataLoader whose worker processes end the run in a sentence, whatever happens to them.

torch pickles a worker's batch in a thread of its own. What goes wrong there (shared memory is full, no file descriptor
is left, the path of a socket is too long) is printed by that thread, the batch is lost, and the run waits for ever.
Here the worker pickles the batch itself, so that the error travels to the run in its place.
"""

import signal
import sys
import warnings
from contextlib import contextmanager, suppress
from multiprocessing.reduction import ForkingPickler

from torch.utils.data import DataLoader

from .config import RunError

SHARED_MEMORY = (
    "the processes that read images have no room in shared memory (/dev/shm): give it more (docker run --shm-size 2g), "
    "read smaller batches (--batch-size), or read in this process (--workers 0)"
)
FILES = "the processes that read images may open no more files: raise `ulimit -n`, or use --workers 0"
MEMORY = "the processes that read images have not enough memory: fewer --workers, or --workers 0"
REASONS = {  # what an error of torch or the system says: what it means here
    "shared memory": SHARED_MEMORY,
    "(shm)": SHARED_MEMORY,
    "Bus error": SHARED_MEMORY,
    "No space left on device": SHARED_MEMORY,
    "Too many open files": FILES,
    "ancdata": FILES,
    "allocate memory": MEMORY,
    "MemoryError": MEMORY,
    "Resource temporarily unavailable": "no more processes can be started: fewer --workers, or --workers 0",
    "exited unexpectedly": "a process that reads images has died: fewer --workers, or --workers 0",
    "killed by signal": "a process that reads images was killed, as happens where memory is short: fewer --workers, "
    "or --workers 0",
}

warnings.filterwarnings("ignore", message="This DataLoader will create")  # as many workers as were asked for


class WorkerLost(RunError):
    """The processes that read images cannot go on; the message says why and what to try."""

    exit_status = 1


class Parcel:
    """A batch on its way out of a worker; pinning its memory opens it."""

    def __init__(self, batch):
        self.content = bytes(ForkingPickler.dumps(batch))

    def open(self):
        return ForkingPickler.loads(self.content)

    def pin_memory(self):
        batch = self.open()
        return batch._replace(images=batch.images.pin_memory(), targets=batch.targets.pin_memory())


def _as_is(batch):
    return batch


@contextmanager
def _signals_wait():
    """While processes fork: an exception in there is lost. The new ones never hear of Ctrl-C; the run ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker(worker):
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    sys.excepthook = lambda *_: None  # of a thread that hands batches over, when the run has gone


class Loader(DataLoader):
    """Of datasets that make a whole Batch at once."""

    def __init__(self, dataset, *, num_workers, **options):
        options |= {"worker_init_fn": _prepare_worker, "collate_fn": Parcel if num_workers else _as_is}
        super().__init__(dataset, num_workers=num_workers, **options)

    def __iter__(self):
        try:
            with _signals_wait():
                batches = super().__iter__()
            for batch in batches:
                yield batch.open() if isinstance(batch, Parcel) else batch
        except RunError as error:  # from a worker it comes with the traceback
            raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from error
        except (RuntimeError, OSError, MemoryError) as error:
            if not self.num_workers:
                raise
            raise WorkerLost(_reason(error)) from error


@contextmanager
def watched():
    """Around the use of a Loader: torch raises the death of a worker wherever the run happens to be."""
    try:
        yield
    except BaseException as error:
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the run ends: what becomes of the workers is no news
        if isinstance(error, WorkerLost):
            sys.unraisablehook = lambda *_: None  # torch's loader complains while it is deleted half made
        if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
            raise WorkerLost(_reason(error)) from error
        raise


def _reason(error):
    said = f"{type(error).__name__}: {error}".strip()
    known = (reason for words, reason in REASONS.items() if words in said)
    return next(known, f"a process that reads images has failed: {said.rpartition(chr(10))[2]}")
