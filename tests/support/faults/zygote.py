"""Run one flow after another, each in a child that is forked for it and may die.

``python -m tests.support.faults.zygote`` reads a JSON object a line, forks, and answers with one.
It has no thread when it forks but zarr's, which zarr makes anew, and has imported everything, so
that a run takes a moment.
"""

import gc
import json
import os
import signal
import sys
import time
import traceback
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import fsspec
import zarr
from PIL import Image

from flows import prune as pruning
from flows.fit import fit
from flows.jobs import networks
from flows.options.flows import Commission, Fit, Prune, Retract, Screen, Segment, Unlearn
from flows.options.tools import ReviewApply, ReviewImport
from flows.retract import retract
from flows.settings import Settings
from flows.smears.commands.review.apply import apply
from flows.smears.commands.review.imports import import_answers
from flows.smears.night import screen
from flows.smears.segment import segment
from flows.smears.unlearn import unlearn
from storage.models.classifiers import find_card
from storage.store import Store, digest_of
from tests.support.commissioned import learn
from tests.support.faults import calls, standins
from tests.support.faults.examine import examine


def _prune_later(options: Prune, settings: Settings) -> Any:
    """Prune when everything in the store is 40 days old."""
    pruning.now = lambda: standins.NOW + timedelta(days=40)
    return pruning.prune.fn(options, settings)


ACTIONS: dict[str, tuple[Any, Any]] = {
    "apply": (apply, ReviewApply),
    "commission": (learn, Commission),
    "fit": (fit.fn, Fit),
    "import": (import_answers, ReviewImport),
    "prune": (_prune_later, Prune),
    "retract": (retract.fn, Retract),
    "screen": (screen.fn, Screen),
    "segment": (segment.fn, Segment),
    "unlearn": (unlearn.fn, Unlearn),
}


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _run_by_pytorch()
    _warm_up()
    gc.freeze()  # a collection in a child would copy all memory
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(_do(asked)), file=answers, flush=True)


def _do(asked: dict[str, Any]) -> dict[str, Any]:
    if "warm" in asked:
        store = Store(asked["warm"])
        networks.load_inference(store, find_card(store, None))
        return {}
    if "start" in asked:
        return {"pid": _fork(asked["start"])}
    pid = asked["wait"]
    ends = time.monotonic() + asked["seconds"]
    while time.monotonic() < ends:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if found and os.WIFSTOPPED(status):
            return {"state": "stopped"}
        if found:
            return {"state": "ended", "code": os.waitstatus_to_exitcode(status)}
        time.sleep(0.002)
    if asked["kill"]:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return {"state": "hung"}


def _fork(run: dict[str, Any]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        _child(run)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(99)


def _child(run: dict[str, Any]) -> None:
    notes = os.open(run["notes"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    out = os.open(run["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(run["environment"])
    if run["cold"]:
        networks.load_classifier.cache_clear()
        networks.load_inference.cache_clear()
    standins.stand_in(Path(run["told"]), run["lifetime"], run["clock"])
    settings = Settings(**run["settings"])
    _note_what_is_kept(notes)
    calls.Calls(Path(run["root"]), calls.Fault(**run["fault"]), notes)
    if run["action"] == "examine":
        found = examine(settings, **run["options"])
        os.write(notes, f"end {json.dumps({'outcome': found})}\n".encode())
        os._exit(0)
    try:
        function, options = ACTIONS[run["action"]]
        outcome = function(options(**run["options"]), settings)
    except Exception as error:
        said = {"error": f"{type(error).__name__}: {error}", "outcome": None}
        code = 1
    else:
        said = {"error": outcome.problem or None, "outcome": outcome.model_dump(mode="json")}
        code = 3 if outcome.failed else 0
    os.write(notes, f"end {json.dumps(said)}\n".encode())
    os._exit(code)


def _note_what_is_kept(notes: int) -> None:
    """Note what the store says is written, when it has said so, and what it is about to change."""
    reveal, reveal_folder, remove = Store.reveal, Store.reveal_folder, Store.remove

    def note(kind: str, *parts: str) -> None:
        os.write(notes, f"{kind} {'/'.join(parts)}\n".encode())

    def noting(self: Store, stage: Path, *parts: str, once: bool = False) -> None:
        note("changing", *parts)
        digest = digest_of(stage.read_bytes())
        reveal(self, stage, *parts, once=once)
        note(f"kept {digest}", *parts)

    def noting_folder(self: Store, stage: Path, *parts: str) -> None:
        note("changing", *parts)
        files = [path for path in stage.rglob("*") if path.is_file()]
        digests = {str(path.relative_to(stage)): digest_of(path.read_bytes()) for path in files}
        reveal_folder(self, stage, *parts)
        for name, digest in digests.items():
            note(f"kept {digest}", *parts, name)

    def removing(self: Store, *parts: str) -> None:
        note("changing", *parts)
        remove(self, *parts)

    Store.reveal, Store.reveal_folder = noting, noting_folder  # type: ignore[method-assign]
    Store.remove = removing  # type: ignore[method-assign]


def _warm_up() -> None:
    """Load what libraries load late, or each run would load it again."""
    Image.init()
    import_module("tasks.smears.visualisation.charts")
    fsspec.get_filesystem_class("s3")
    zarr.create_array(zarr.storage.MemoryStore(), shape=(1,), dtype="f4")[:]


def _run_by_pytorch() -> None:
    """Let PyTorch run networks: the threads of OpenVINO would not be there after a fork."""
    from tasks.network import gpu

    networks.by_openvino = lambda *_: None
    gpu.by_pytorch = lambda classifier: gpu.PyTorch(classifier, batch=32, threads=1)


if __name__ == "__main__":
    serve()
