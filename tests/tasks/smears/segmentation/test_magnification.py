from tasks.smears.segmentation.field_of_view import MEASURED, measured_every, typical_diameters


def test_each_photograph_has_the_median_of_its_size() -> None:
    small, large = (640, 480), (1280, 960)
    sizes = [small, small, large, small, large, (9, 9)]
    measured = [90.0, 100.0, 200.0, None, None, None]
    assert typical_diameters(sizes, measured) == [95.0, 95.0, 200.0, 95.0, 200.0, None]


def test_a_field_of_a_slide_keeps_what_its_slide_says() -> None:
    assert typical_diameters([None, (640, 480), None], [31.0, 90.0, None]) == [31.0, 90.0, None]


def test_few_photographs_are_all_measured_and_of_many_about_as_many() -> None:
    assert [measured_every(n) for n in (0, 1, MEASURED, MEASURED + 1)] == [1, 1, 1, 2]
    assert MEASURED / 2 < 1_000_000 // measured_every(1_000_000) <= MEASURED
