"""Waits for the weights in a thread of its own, so that the user can type while they are read.

Somebody has to listen to the worker meanwhile: it reports how far it is, and what its engine prints would fill a pipe
and hold it up. Until the thread is done nobody else may use the worker.
"""

import os
import select
import threading
from collections.abc import Callable

from llmrun.engines.client import Interrupted, WorkerClient

__all__ = ["Loading"]

_REPORT_SECONDS = 0.1


class Loading:
    """A worker that loads its model.

    Args:
        worker: It, with the plan sent.
    """

    def __init__(self, worker: WorkerClient) -> None:
        self._worker = worker
        self._fraction = 0.0
        self._context_length = 0
        self._error: BaseException | None = None
        self._stop_read, self._stop_write = os.pipe()
        self._done_read, self._done_write = os.pipe()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        self._worker.interrupt_descriptor = self._stop_read
        try:
            self._context_length = self._worker.wait_loaded(self._report)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            self._error = error
        finally:
            self._worker.interrupt_descriptor = None
            os.write(self._done_write, b".")

    def _report(self, fraction: float) -> None:
        self._fraction = fraction

    def wait(self, interrupt: int, progress: Callable[[float], None]) -> int:
        """Return the context length as soon as the model is loaded.

        Args:
            interrupt: When this descriptor becomes readable, the waiting ends. The loading goes on.
            progress: Gets the share that has been read, several times a second.

        Raises:
            Interrupted: The waiting was ended.
            LlmrunError: The model cannot be loaded.
        """
        while True:
            ready, _, _ = select.select([interrupt, self._done_read], [], [], _REPORT_SECONDS)
            if self._done_read in ready:
                break
            if interrupt in ready:
                raise Interrupted
            progress(self._fraction)
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._context_length

    def close(self) -> None:
        """Stop listening; the worker may then be closed."""
        if self._stop_write < 0:
            return
        os.write(self._stop_write, b".")
        self._thread.join()
        for descriptor in (self._stop_read, self._stop_write, self._done_read, self._done_write):
            os.close(descriptor)
        self._stop_write = -1
