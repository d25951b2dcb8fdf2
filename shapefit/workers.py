"""Independent pieces of work side by side, in processes with one thread each."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context


class Workers:
    """`map` over argument tuples in `count` processes, or in this one if 1, with one thread each."""

    def __init__(self, count: int) -> None:
        self.pool = None
        if count > 1:
            self.pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_single_threaded)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def stream(self, function: Callable, jobs: Sequence[tuple]) -> Iterator:
        """Results of `function(*job)` in the order of the jobs, each as soon as it is there."""
        if self.pool is None:
            for job in jobs:  # one thread here too: sums then have the same order whatever the count
                with _one_thread():
                    result = function(*job)
                yield result
            return
        for future in [self.pool.submit(function, *job) for job in jobs]:
            yield future.result()

    def map(self, function: Callable, jobs: Sequence[tuple]) -> list:
        """All results of `stream`."""
        return list(self.stream(function, jobs))


@contextmanager
def _one_thread() -> Iterator[None]:
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


def _single_threaded() -> None:
    import numba
    import torch
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    numba.set_num_threads(1)
    torch.set_num_threads(1)
