"""One thread for work that waits for a disk, in order, beside the loop.

Owns the thread. A job runs there, its outcome is told in the loop's thread: `done(result)`, or
`failed(error)`. Jobs begin in the order they were given, and are told in it.
"""

import queue
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Worker(Protocol):
    """What those who give jobs need."""

    def submit(
        self, job: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None: ...


class WorkerThread:
    """`post` calls in the loop's thread, from any: `loop.call_soon_threadsafe`."""

    def __init__(self, name: str, post: Callable[[Callable[[], None]], object]) -> None:
        self._post = post
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(
        self, job: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        def run() -> None:
            try:
                result = job()
            except Exception as caught:
                error = caught
                self._post(lambda: failed(error))
            else:
                self._post(lambda: done(result))

        self._jobs.put(run)

    def close(self) -> None:
        """Ends the thread when it has done what it was given; waits for it."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (run := self._jobs.get()) is not None:
            try:
                run()
            except RuntimeError:
                return  # the loop is closed: nobody is told any more
