import numpy as np

from tasks.smears.evaluation.scored import CLEAN, TreatedImages, Treatment
from tasks.smears.evaluation.treatments import CORRUPTIONS, STRENGTHS


def test_a_shard_without_one_good_image_has_no_forms() -> None:
    empty = TreatedImages(np.empty(0, np.int64), np.empty((0, 32), np.uint8), np.empty(0, np.int8))
    again = TreatedImages.from_arrays(empty.to_arrays())
    assert again.forms == {}


def test_every_treatment_has_a_folder_of_its_own() -> None:
    treatments = [
        CLEAN,
        *(Treatment("attack", name, s) for name, made in STRENGTHS.items() for s in made),
        *(Treatment("corruption", name, float(s)) for name in CORRUPTIONS for s in range(1, 6)),
    ]
    keys = [treatment.key for treatment in treatments]
    assert len(set(keys)) == len(keys)
    assert all("/" not in key and " " not in key for key in keys)
