from tasks.smears.segmentation.field_of_view import (
    MEASURED,
    MEASURED_ALONE,
    measured_together,
    to_measure,
    typical_diameters,
)


def test_each_photograph_has_the_median_of_its_slide_and_size() -> None:
    small, large = (640, 480), (1280, 960)
    slides = [*"aaaaaa", "b", "b"]
    sizes = [small, small, large, small, large, (9, 9), small, small]
    measured = [90.0, 100.0, 200.0, None, None, None, 40.0, None]
    expected = [95.0, 95.0, 200.0, 95.0, 200.0, None, 40.0, 40.0]
    assert typical_diameters(slides, sizes, measured) == expected


def test_a_field_of_a_slide_keeps_what_its_slide_says() -> None:
    sizes, measured = [None, (640, 480), None], [31.0, 90.0, None]
    assert typical_diameters("aaa", sizes, measured) == measured


def test_of_each_slide_some_photographs_are_measured_whatever_else_is_there() -> None:
    many = ["many"] * 400
    alone = to_measure(measured_together(many))
    assert len(alone) == MEASURED
    assert alone[::4] == [0, 399]
    together = to_measure(measured_together(["one", *many, "two", "two", "three"]))
    assert together == [0, *(1 + each for each in alone), 401, 402, 403]
    each_a_slide = measured_together([str(number) for number in range(100)])
    assert len(to_measure(each_a_slide)) == MEASURED_ALONE
