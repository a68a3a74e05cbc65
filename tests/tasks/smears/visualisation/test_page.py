import base64

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from tasks.smears.visualisation.page import data_uri, render


def test_text_is_escaped_and_markup_is_not() -> None:
    page = render("page.html", title="<b>&")
    assert "<h1>&lt;b&gt;&amp;</h1>" in page
    assert "<h1><b></b></h1>" in render("page.html", title=Markup("<b></b>"))


def test_a_value_that_is_missing_is_an_error_and_no_blank() -> None:
    with pytest.raises(UndefinedError, match="title"):
        render("page.html")


def test_an_image_lies_in_the_page() -> None:
    head, _, body = data_uri(b"\x89PNG", "png").partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body) == b"\x89PNG"


def test_no_page_may_run_a_script_that_it_does_not_name() -> None:
    assert "script-src" not in render("page.html", title="t")
    assert "default-src 'none'" in render("page.html", title="t")
