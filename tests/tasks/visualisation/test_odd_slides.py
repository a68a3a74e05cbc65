from tasks.reports.slide_reasons import SlideReason
from tasks.visualisation.odd_slides import SHOWN, odd_slides


def slide(*reasons: SlideReason) -> dict[str, object]:
    return {"reasons": list(reasons)}


def test_a_slide_that_is_no_smear_is_listed_once() -> None:
    wrong = slide(SlideReason.IMPLAUSIBLE, SlideReason.SHIFTED, SlideReason.TOGETHER)
    far, both = slide(SlideReason.SHIFTED), slide(SlideReason.SHIFTED, SlideReason.TOGETHER)
    found = odd_slides([wrong, far, slide(), both])
    assert found["implausible"] == [wrong]
    assert found["shifted"] == [far, both]
    assert found["together"] == [both]


def test_what_is_not_shown_is_counted() -> None:
    found = odd_slides([slide(SlideReason.SHIFTED)] * (SHOWN + 3))
    assert len(found["shifted"]) == SHOWN
    assert (found["more_shifted"], found["more_implausible"]) == (3, 0)
