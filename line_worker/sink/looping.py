"""An event loop in a thread of its own, for libraries that speak asyncio: their tasks go on between our calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

RESULT = TypeVar("RESULT")
CLOSE_S = 1.0


class LoopThread:
    """Runs coroutines; `name` is the thread's."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, RESULT], timeout_s: float) -> RESULT:
        """Return what `coroutine` returns, and raise what it raises.

        Raises:
            TimeoutError: it took longer; it has been cancelled.
            ConnectionError: `close` was called meanwhile.
        """
        running = asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, timeout_s), self._loop)
        try:
            return running.result(timeout_s + CLOSE_S)  # the loop itself may be blocked
        except CancelledError:
            raise ConnectionError("it was closed") from None
        except TimeoutError:
            running.cancel()
            raise

    def close(self) -> None:
        """Cancel what still runs and end the thread, in bounded time; may be called twice."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._end()))
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()

    async def _end(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=CLOSE_S / 2) if left else None
        self._loop.stop()
