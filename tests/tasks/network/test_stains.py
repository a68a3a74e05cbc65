import numpy as np

from tasks.network.stains import mean_absorbance, stain_clusters


def test_absorbance_is_averaged_over_what_is_not_black() -> None:
    images = np.zeros((3, 4, 4, 3), np.uint8)
    images[0, :2] = (255, 51, 0)
    images[1] = 255
    found = mean_absorbance(images, batch=2)
    assert np.allclose(found[0], [0.0, np.log(5), np.log(255)])
    assert np.allclose(found[1:], 0.0)


def test_patients_of_one_stain_share_a_number_and_the_palest_is_first() -> None:
    rng = np.random.default_rng(0)
    patients = [f"p{i}" for i in range(12) for _ in range(20)]
    shade = np.repeat([0.8, 0.2, 0.5] * 4, 20)[:, None]
    found = stain_clusters(shade + rng.normal(0, 0.05, (240, 3)), patients)
    assert found.reshape(12, 20).tolist() == [[k] * 20 for k in (2, 0, 1) * 4]


def test_fewer_patients_than_clusters_are_a_cluster_each() -> None:
    found = stain_clusters(np.array([[0.3] * 3, [0.1] * 3, [0.3] * 3]), ["b", "a", "b"])
    assert found.tolist() == [1, 0, 1]
