"""Run the command `doctor`: check that this machine can do the work."""

import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from cryptography import x509
from distributed.system import MEMORY_LIMIT
from pydantic import BaseModel

from flows.cluster.client import open_client
from flows.cluster.kinds import certificates, workers_of
from flows.jobs.libraries import OF_A_MACHINE, changed_since, exact
from flows.options.tools import Doctor
from flows.outcome import Outcome, table
from flows.settings import Settings, leaves, origin
from storage import objects, records
from storage.models.classifiers import list_models
from storage.models.shipped import shipped
from storage.store import AlreadyExistsError, Store
from tasks.words import counted, verb

LEAST_DISK = 2 * 1024**3
LEAST_DAYS = 14  # that certificates must hold yet
CONTENT = b"slidewatch"
VOLATILE = {"tmpfs", "ramfs"}
OTHER_STORE = "put the store on ext4, XFS, NFS or an S3 server that knows conditional PUTs"


class Finding(BaseModel):
    """The result of one check."""

    name: str
    well: bool
    found: str


class Setting(BaseModel):
    """A setting in force, and where it comes from."""

    name: str
    value: str | int | float | bool | list[str] | None
    origin: str


class DoctorOutcome(Outcome):
    """The results of all checks, and the settings in force."""

    checks: list[Finding]
    settings: list[Setting]

    @property
    def failed(self) -> bool:
        """Return whether something would stop a run."""
        return not all(check.well for check in self.checks)

    def _text(self) -> str:
        checks = [(c.name, f"{'ok  ' if c.well else 'BAD '} {c.found}") for c in self.checks]
        settings = [(each.name, f"{each.value}  ({each.origin})") for each in self.settings]
        return f"{table(checks)}\n\nsettings:\n{table(settings)}"


def doctor(options: Doctor, settings: Settings) -> DoctorOutcome:
    """Check the machine and print the settings, with secrets removed."""
    checks: tuple[Callable[[Settings], tuple[bool, str]], ...] = (
        _packages, _processors, _cuda, _store, _synced, _created_once, _replaced, _model,
        _disk, _certificates, _cluster,
    )  # fmt: skip
    results = []
    for check in checks:
        try:
            well, finding = check(settings)
        except Exception as error:  # a check that breaks is a finding, not a crash
            well, finding = False, f"{type(error).__name__}: {error}"
        name = check.__name__.strip("_").replace("_", " ")
        results.append(Finding(name=name, well=well, found=finding))
    others, found = leaves(Settings().model_dump()), []
    for name, value in leaves(settings.model_dump()).items():
        where = origin(name) if value == others[name] else "command line"
        found.append(Setting(name=name, value=value, origin=where))
    return DoctorOutcome(checks=results, settings=found)


def _packages(_: Settings) -> tuple[bool, str]:
    python = f"Python {platform.python_version()} on {platform.platform()}"
    return True, ", ".join([python, *map(" ".join, exact(OF_A_MACHINE).items())])


def _processors(settings: Settings) -> tuple[bool, str]:
    memory = MEMORY_LIMIT / 1024**3  # in a container, its own
    return True, f"{counted(workers_of(settings), 'worker process')}, {memory:.0f} GiB of memory"


def _cuda(_: Settings) -> tuple[bool, str]:
    names = map(torch.cuda.get_device_name, range(torch.cuda.device_count()))
    return True, ", ".join(names) or "none: the CPU does the work"


@contextmanager
def _file(settings: Settings) -> Iterator[tuple[Store, str]]:
    """Yield a store and a name in it that is free, and is so again afterwards."""
    store, name = Store(settings.store), f"doctor-{uuid.uuid4().hex}"
    try:
        yield store, name
    finally:
        store.remove(name)


def _store(settings: Settings) -> tuple[bool, str]:
    with _file(settings) as (store, name):
        store.write_bytes(CONTENT, name)
        well = store.read_bytes(name) == CONTENT
        return well, f"{store.address()} can be written and read"


def _synced(settings: Settings) -> tuple[bool, str]:
    with _file(settings) as (store, name):
        if not store.is_local:
            return True, "by the object store, which confirms a PUT once it is stored"
        begun = time.monotonic()
        store.write_bytes(CONTENT, name)  # which syncs the file and its folder
        taken = 1000 * (time.monotonic() - begun)
        kind = _filesystem(Path(store.root))
        if kind in VOLATILE:
            return True, f"warning: {kind} is memory, lost at a reboot: choose a store on a disk"
        return True, f"file and folder, on {kind}: {taken:.1f} ms a write"


def _filesystem(path: Path) -> str:
    kinds = {Path(each.mountpoint): each.fstype for each in psutil.disk_partitions(all=True)}
    mount = next((each for each in (path, *path.resolve().parents) if each in kinds), None)
    return kinds[mount] if mount else "an unknown filesystem"


def _created_once(settings: Settings) -> tuple[bool, str]:
    with _file(settings) as (store, name):
        means = "hard links" if store.is_local else "PUT with If-None-Match"
        try:
            store.write_bytes(CONTENT, name, once=True)
            store.write_bytes(b"another", name, once=True)
        except AlreadyExistsError:
            return True, f"by {means}: only one run at a time works on a batch"
        except OSError as error:
            return False, f"no {means} ({error}): {OTHER_STORE}"
        return False, f"{means}: not honoured, so two runs may work on one batch: {OTHER_STORE}"


def _replaced(settings: Settings) -> tuple[bool, str]:
    with _file(settings) as (store, name):
        store.write_bytes(b"another", name)
        if store.is_local:
            store.write_bytes(CONTENT, name)
            return store.read_bytes(name) == CONTENT, "by a rename, in one step"
        late = "a run that stalls and comes back may overwrite its successor's report"
        if not objects.is_conditional(store.fs):
            return True, f"warning: no conditional PUT is known for this kind of store: {late}"
        with store.stage() as stage:
            stage.write_bytes(CONTENT)
            tag = objects.tag_of(store.fs, store.path(name))
            objects.put_if(store.fs, stage, store.path(name), tag)
            try:
                objects.put_if(store.fs, stage, store.path(name), tag)
            except OSError:
                return True, "by PUT with If-Match: a late write is refused"
        return True, f"warning: PUT with If-Match is not honoured: {late}: {OTHER_STORE}"


def _model(settings: Settings) -> tuple[bool, str]:
    cards = list_models(Store(settings.store))
    if not cards:
        own = list_models(shipped())[-1].name
        return True, f"{own} comes along; slidewatch train adds one"
    changes = changed_since(cards[-1].versions, ["torch"])
    made = "; ".join(f"warning: {change} since it was trained" for change in changes)
    return True, f"{cards[-1].name} {made}".strip()


def _disk(settings: Settings) -> tuple[bool, str]:
    store = Store(settings.store)
    if not store.is_local:
        return True, "the store is not on this machine"
    folder = Path(store.root)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return free >= LEAST_DISK, f"{free / 1024**3:.0f} GiB free for the store"


def _certificates(_: Settings) -> tuple[bool, str]:
    tls = certificates()  # raises an error if a file is wrong
    if not (tls.tls_ca_file and tls.tls_client_cert):
        return True, "none: Dask's configuration names none"
    files = (tls.tls_ca_file, tls.tls_client_cert)
    read = (x509.load_pem_x509_certificate(Path(file).read_bytes()) for file in files)
    ends = min(each.not_valid_after_utc for each in read)
    left = (ends - records.now()).days
    return left >= LEAST_DAYS, f"{left} days left, until {ends:%Y-%m-%d}"


def _cluster(settings: Settings) -> tuple[bool, str]:
    with open_client(settings) as client:
        workers = len(client.nthreads())
    if not workers:
        return False, "the scheduler answers, but it has no workers"
    answer = verb(workers, "answers", "answer")
    return True, f"{settings.cluster}: {counted(workers, 'worker')} {answer}"
