"""Independent pieces of work side by side: in this process, in local processes or on a Dask cluster.

The only module that knows Dask (Rocklin 2015, SciPy). A job runs on one thread, whatever the number of
workers: sums then have one order, and results the same bits. A job whose worker dies is given to another
one; jobs are pure functions, so its result is that of an undisturbed run.

Local workers are fresh processes that import the script that is running, as everywhere in Python's
multiprocessing: a script that asks for more than one needs the line `if __name__ == "__main__":`.
Workers of a cluster need shapefit; they keep to one BLAS thread from their first job on.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

ATTEMPTS = 3  # a job that ends so many local workers is given up
PATIENCE = 10  # s to wait for a scheduler's answer
AHEAD = 4  # results, per worker, that may wait for an earlier one
# of a local worker's freed memory, bytes: Dask's own, 64 KiB, has glibc fetch arrays' pages from the kernel
# again and again, which took a third of a simulation's time
KEPT, MAPPED = 2**28, 2**25


class Workers:
    """`stream` over argument tuples, here if `count` is 1, else in `count` processes, or on a cluster.

    `cluster` is the address or the scheduler file of a Dask cluster; `count` is then without effect.
    Entered while others of the same count and address are running, it shares their processes.
    Raises ValueError if no scheduler answers.
    """

    def __init__(self, count: int = 1, cluster: str = "") -> None:
        self.key = (0 if cluster else count, cluster)
        self.client: Any = None

    def __enter__(self) -> "Workers":
        if self.key != (1, ""):
            self.client, users = _running.get(self.key) or (_start(*self.key), 0)
            _running[self.key] = self.client, users + 1
        return self

    def __exit__(self, *_: object) -> None:
        if self.client is None:
            return
        client, users = _running.pop(self.key)
        self.client = None
        if users > 1:
            _running[self.key] = client, users - 1
        else:
            cluster = client.cluster
            client.close()
            if cluster is not None:
                cluster.close()

    def stream(self, function: Callable, jobs: Iterable[tuple]) -> Iterator:
        """Results of `function(*job)` in the order of the jobs, which are drawn as they are needed.

        Raises what a job raised, and ChildProcessError for a job that ended `ATTEMPTS` workers.
        """
        for outcome in self.outcomes(function, jobs):
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome

    def map(self, function: Callable, jobs: Iterable[tuple]) -> list:
        """All results of `stream`."""
        return list(self.stream(function, jobs))

    def outcomes(self, function: Callable, jobs: Iterable[tuple]) -> Iterator:
        """As `stream`, with a failed job's exception in the place of its result."""
        return self._here(function, jobs) if self.client is None else self._there(function, jobs)

    def peak_memory(self) -> float:
        """GiB that the workers' processes held at most, summed up; 0 if there are none."""
        return 0.0 if self.client is None else sum(self.client.run(peak_memory).values())

    def _here(self, function: Callable, jobs: Iterable[tuple]) -> Iterator:
        for job in jobs:
            with one_thread():
                try:
                    outcome = function(*job)
                except Exception as error:
                    outcome = error
            yield outcome

    def _there(self, function: Callable, jobs: Iterable[tuple]) -> Iterator:
        import cloudpickle
        from distributed import wait

        client, jobs = self.client, iter(jobs)
        running: dict = {}  # future -> number of its job
        arrived: dict = {}  # number -> outcome; taken at once, so that no worker's death loses it
        submitted = yielded = 0
        try:
            while True:
                slots = self._slots()
                free = min(slots - len(running), AHEAD * slots - len(arrived))
                for job in islice(jobs, max(free, 0)):
                    # as bytes: Dask would look through the arguments for work of its own
                    work = cloudpickle.dumps((function, job))
                    running[client.submit(_alone, work, pure=False)] = submitted
                    submitted += 1
                if yielded == submitted:
                    return
                if yielded not in arrived:
                    with client.as_current():
                        done, _ = wait(list(running), return_when="FIRST_COMPLETED")
                    for future in done:
                        arrived[running.pop(future)] = _outcome(future)
                while yielded in arrived:
                    yield arrived.pop(yielded)
                    yielded += 1
        finally:
            if client.status == "running":  # else the workers went before the stream did
                client.cancel(list(running))

    def _slots(self) -> int:
        count, cluster = self.key
        if not cluster:
            return count  # a local worker never holds a second job, which its death would be blamed on
        # more than there are threads: a cluster that grows with its work must see that some is waiting
        return max(8, 2 * sum(self.client.nthreads().values()))


_running: dict = {}  # (count, address) -> the client, and how many share it


def _start(count: int, cluster: str):
    """Client of the cluster at an address, or of one of `count` local processes."""
    import dask
    from distributed import Client

    # a job may hold a model; one that is larger than Dask likes is no reason for a warning
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GB"})
    if not cluster:
        return Client(_local(count), set_as_default=False)
    try:
        if Path(cluster).is_file():
            return Client(scheduler_file=cluster, timeout=PATIENCE, set_as_default=False)
        return Client(cluster, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no Dask scheduler answers at {cluster!r} ({error}); expected an address like "
            "tcp://host:8786 or a scheduler file"
        ) from error


def _local(count: int) -> Any:
    import dask
    from distributed import LocalCluster

    # a worker that dies twice within this time would not be started again; read at each death
    dask.config.set({"distributed.deploy.lost-worker-timeout": "1000 days"})
    memory = {"MALLOC_TRIM_THRESHOLD_": str(KEPT), "MALLOC_MMAP_THRESHOLD_": str(MAPPED)}
    before_start = dask.config.get("distributed.nanny.pre-spawn-environ") | memory
    settings = {
        "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
        # it looks at a worker's stack a hundred times a second, which takes a tenth of its time
        "distributed.worker.profile.enabled": False,
        "distributed.nanny.pre-spawn-environ": before_start,
    }
    with dask.config.set(settings):
        try:
            return LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",  # whatever port is free: nobody looks
                memory_limit=0,
                silence_logs=logging.CRITICAL,
                preload=["shapefit.workers"],
            )
        except RuntimeError as error:
            raise ChildProcessError(
                "the workers' processes did not start: does the script that asks for them do its work under "
                'if __name__ == "__main__": ? (one worker does without)'
            ) from error


def _outcome(future):
    from distributed import KilledWorker

    if future.status == "cancelled":
        raise ChildProcessError("the connection to the workers was lost")
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, KilledWorker):
        return ChildProcessError("each worker that tried it died (killed, or out of memory)")
    return error


def _alone(work: bytes) -> object:
    import cloudpickle

    _one_thread_for_good()
    function, job = cloudpickle.loads(work)
    return function(*job)


def dask_setup(worker: object) -> None:
    """What Dask calls in each new local worker: Ctrl-C is for the process that the workers work for."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def peak_memory() -> float:
    """GiB that this process held at most."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the process that started this one held
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it, this process computes on one thread: what it finds has the same bits on any machine."""
    import numba
    import torch
    from threadpoolctl import threadpool_limits

    threads = numba.get_num_threads(), torch.get_num_threads()
    try:
        with threadpool_limits(1):
            numba.set_num_threads(1)
            torch.set_num_threads(1)
            yield
    finally:
        numba.set_num_threads(threads[0])
        torch.set_num_threads(threads[1])


def _one_thread_for_good() -> None:
    import numba
    import torch

    _one_blas_thread()
    numba.set_num_threads(1)  # holds for the calling thread alone
    torch.set_num_threads(1)


@cache
def _one_blas_thread() -> None:
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
