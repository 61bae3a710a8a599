"""A DataLoader whose worker processes end the run in a sentence, whatever happens to them.

torch pickles a worker's batch in a thread of its own. What goes wrong there (shared memory is full, no file descriptor
is left, the path of a socket is too long) is printed by that thread, the batch is lost, and the run waits for ever.
Here the worker pickles the batch itself, so that the error travels to the run in its place.
"""

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


class Loader(DataLoader):
    """Of datasets that make a whole Batch at once."""

    def __init__(self, dataset, *, num_workers, **options):
        super().__init__(dataset, num_workers=num_workers, collate_fn=Parcel if num_workers else _as_is, **options)

    def __iter__(self):
        try:
            for batch in super().__iter__():
                yield batch.open() if isinstance(batch, Parcel) else batch
        except RunError as error:  # from a worker it comes with the traceback
            raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from error
        except (RuntimeError, OSError, MemoryError) as error:
            if not self.num_workers:
                raise
            said = f"{type(error).__name__}: {error}"
            last_line = said.strip().rpartition("\n")[2]
            reason = next((reason for words, reason in REASONS.items() if words in said), None)
            raise WorkerLost(reason or f"a process that reads images has failed: {last_line}") from error
