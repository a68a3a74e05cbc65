"""Answer a query in a separate process, which the system ends if it takes too much.

DuckDB checks its own limits only between the steps of a statement, and a single function call may
be a step that takes any memory and time. The limits here are the system's: on the memory that the
process may request, and on the time after which it is killed.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa

from storage.records import NewerError, Tell
from storage.store import Store, StoreError, refuse_absent

SECONDS = 300.0
# A query may run on the machine of the next night, and must leave memory and disk for it.
MEMORY, SPILL = "2GiB", "8GiB"
GRACE = 1.0  # seconds for DuckDB to notice by itself that the time is over
# DuckDB's own limit, and about as much for Python, Arrow and one value of a column.
DATA = 3 * 2**30
STACK = 2**23  # bytes per thread; DuckDB starts one per processor


class QueryError(Exception):
    """A query cannot be answered; one line says why."""


KINDS = {kind.__name__: kind for kind in (QueryError, StoreError, NewerError)}
# Arrow's own allocators reserve a gigabyte at once, which would count as used.
ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "PYTHONSAFEPATH": "1"}


@contextmanager
def confined_answer(
    store: Store, sql: str, *, seconds: float = SECONDS, on_damage: Tell | None = None
) -> Iterator[pa.RecordBatchReader]:
    """Answer one SQL query as `answer` does, within limits that no statement can exceed.

    Raises:
        QueryError: see `answer`; also if the process was killed.
        StoreError: a report is damaged.
    """
    asked = {"store": store.url, "sql": sql, "seconds": seconds, "raises": on_damage is None}
    with tempfile.TemporaryDirectory() as spill, tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            [sys.executable, "-m", "storage.reports.confined"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            env=os.environ | ENVIRONMENT | {"TMPDIR": spill},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with process.stdin as question:
                question.write(json.dumps(asked).encode())
            schema, batches = _opened(process, messages, seconds)
            for each in _messages(messages):
                if "damage" in each and on_damage is not None:
                    on_damage(each["damage"])
            yield pa.RecordBatchReader.from_batches(schema, batches)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _opened(
    process: subprocess.Popen[bytes], messages: IO[bytes], seconds: float
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return the schema of the answer, and an iterator over its rows."""
    try:
        stream = pa.ipc.open_stream(process.stdout)
    except (pa.ArrowException, OSError):
        _refuse_ended(process, messages, seconds)
        raise

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from stream
        except (pa.ArrowException, OSError):
            _refuse_ended(process, messages, seconds)
            raise
        _refuse_ended(process, messages, seconds)  # a stream may end early between two batches

    return stream.schema, batches()


def _refuse_ended(process: subprocess.Popen[bytes], messages: IO[bytes], seconds: float) -> None:
    """Raise a process's own error, or the reason it was killed; nothing if it succeeded."""
    code = process.wait()
    for each in _messages(messages):
        if "error" in each:
            kind, text = each["error"], each["text"]
            raise KINDS[kind](text) if kind in KINDS else QueryError(f"{kind}: {text}")
    if code == -signal.SIGALRM:
        raise QueryError(
            f"the query was given up after {seconds:g} seconds: ask for less, or give --seconds"
        )
    if code:
        raise QueryError(
            f"the query's process ended by itself ({code}), as one does that needs more than "
            f"{MEMORY} of memory: ask for less at once"
        )


def _messages(messages: IO[bytes]) -> list[dict[str, Any]]:
    """Read the process's messages so far, without other lines, such as Python's warnings."""
    messages.seek(0)
    return [json.loads(line) for line in messages.read().splitlines() if line.startswith(b'{"')]


def _say(**message: str) -> None:
    print(json.dumps(message), file=sys.stderr, flush=True)  # noqa: T201


def _confine(seconds: float) -> None:
    """Let the system limit this process's time and memory.

    Python cannot do that: a statement may not let it run.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
    most = DATA + STACK * (os.cpu_count() or 1)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _main() -> None:
    """Answer the query on standard input, as an Arrow stream on standard output."""
    from storage.reports.sql import answer  # takes half a second to import

    asked = json.load(sys.stdin)
    _confine(asked["seconds"])
    on_damage = None if asked["raises"] else lambda text: _say(damage=text)
    try:
        store = Store(asked["store"])
        refuse_absent(store)
        with (
            answer(store, asked["sql"], seconds=asked["seconds"], on_damage=on_damage) as reader,
            pa.ipc.new_stream(sys.stdout.buffer, reader.schema) as stream,
        ):
            for batch in reader:
                stream.write_batch(batch)
        sys.stdout.flush()
        # After a LIMIT, threads still read reports: Python would wait for them, or abort.
        os._exit(0)
    except BrokenPipeError:
        os._exit(0)  # the reader has seen enough
    except MemoryError:
        _say(error="QueryError", text=f"the query needs more than {MEMORY} of memory: ask for less")
        os._exit(1)
    except Exception as error:
        _say(error=type(error).__name__, text=" ".join(str(error).split()))
        os._exit(1)


if __name__ == "__main__":
    _main()
