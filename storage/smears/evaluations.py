"""Keep evaluations: ``evaluations/<evaluation>/`` has the questions, features and results.

``card.json`` is written once, when an evaluation starts. Under a folder for each detector,
``images/<set>.parquet`` lists a set of images and ``shards/<set>/<treatment>/<shard>.safetensors``
has the features of some of them, complete or absent, so that a run resumes where one was cut off.
``results.parquet`` and ``report.html`` are the results.
"""

from datetime import datetime

from storage import parquet, records
from storage.batches.manifests import Sources
from storage.store import Store, StoreError, check_name

FOLDER, RESULTS = "evaluations", "results.parquet"
READABLE = ("/card.json", ".parquet", ".safetensors")


class Evaluation(records.Record):
    """The questions that an evaluation answers.

    ``detectors`` has one for each seed; ``ood`` maps "group/name" to the images' address;
    ``attacked`` is the number of images attacked.
    """

    name: str
    started_at: datetime
    detectors: list[str]
    images: Sources
    limit: int | None
    ood: dict[str, str]
    commissioned: str | None = None  # 0.14 could judge slides at a laboratory, too
    attacks: list[str]
    attacked: int
    save_attacks: bool = False  # 0.14 could keep attacked images


def start_evaluation(store: Store, wanted: Evaluation) -> Evaluation:
    """Write the card of a new evaluation, or load it; StoreError if it asks something else."""
    check_name("evaluation", wanted.name)
    parts = (FOLDER, wanted.name, "card.json")
    if not store.exists(*parts):
        wanted.write(store, *parts, once=True)
        return wanted
    evaluation = Evaluation.read(store, *parts)
    asked, before = (
        e.model_dump(exclude={"started_at", "save_attacks"}) for e in (wanted, evaluation)
    )
    if asked != before:
        changed = ", ".join(key for key in asked if asked[key] != before[key])
        raise StoreError(
            f"evaluation {wanted.name} was started with other {changed}: give the same to "
            "resume it, or another --name"
        )
    return evaluation


def evaluation_files(store: Store, name: str) -> list[str]:
    """List the files of an evaluation that can be read back: its card, tables and arrays."""
    store.fs.invalidate_cache()
    start = len(store.root) + 1
    paths = [path[start:] for path in store.fs.find(store.path(FOLDER, name))]
    return sorted(path for path in paths if path.endswith(READABLE) and "/lease/" not in path)


def verify_evaluation_file(store: Store, path: str) -> None:
    """Read a file of an evaluation; StoreError if it is damaged. Arrays have no digest."""
    if path.endswith(".parquet"):
        parquet.read_table(store, path)
    elif path.endswith(".safetensors"):
        read_arrays(store, path)
    else:
        Evaluation.read(store, path)


def write_arrays(store: Store, arrays: records.Arrays, *parts: str) -> None:
    """Write named arrays, complete or not at all."""
    store.write_bytes(records.arrays_to_bytes(arrays), *parts)


def read_arrays(store: Store, *parts: str) -> records.Arrays:
    """Read arrays that `write_arrays` has written; StoreError if they are damaged."""
    try:
        return records.arrays_from_bytes(store.read_bytes(*parts))
    except StoreError as error:
        raise StoreError(f"{store.address(*parts)}: {error}") from None


def images_path(evaluation: str, detector: str, images: str) -> tuple[str, ...]:
    """Locate the list of a set of images, relative to the store."""
    return (FOLDER, evaluation, detector, "images", f"{images}.parquet")


def shard_path(
    evaluation: str, detector: str, images: str, treatment: str, number: int
) -> tuple[str, ...]:
    """Locate the features of a shard of a set under a treatment, relative to the store."""
    folder = (FOLDER, evaluation, detector, "shards", images, treatment)
    return (*folder, f"{number:05d}.safetensors")
