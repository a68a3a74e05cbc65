"""End a command in bounded time, even while Prefect retries, or sends its events forever."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import NoReturn

STOP_WITHIN = 20.0  # seconds after a signal: containers are killed 30 seconds after it
LEAVE_WITHIN = 20.0  # seconds after the outcome, in which Prefect can send its last events


def end_after_signals(code: int, say: Callable[[], None]) -> None:
    """End this process some time after a signal, which is seen without Prefect's handlers."""
    receiver, tell = socket.socketpair()
    tell.setblocking(False)
    signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_after, args=(receiver, tell, code, say), daemon=True).start()


def _end_after(
    receiver: socket.socket, open_too: socket.socket, code: int, say: Callable[[], None]
) -> None:
    while not {signal.SIGTERM, signal.SIGINT, signal.SIGHUP} & set(receiver.recv(16)):
        pass
    threading.Event().wait(STOP_WITHIN)
    say()
    end(code)


def leave(code: int) -> None:
    """End this process with a code some time from now, if it has not ended by itself."""
    timer = threading.Timer(LEAVE_WITHIN, partial(end, code))
    timer.daemon = True
    timer.start()


def end(code: int) -> NoReturn:
    """End this process now, after flushing its output."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    os._exit(code)
