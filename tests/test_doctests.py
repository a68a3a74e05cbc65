"""The examples in docstrings do what they say."""

import doctest
from importlib import import_module

from tests.support.paths import ROOT


def test_the_examples_of_all_modules_are_right() -> None:
    ran, wrong = 0, []
    for room in ("flows", "tasks", "storage"):
        for path in sorted((ROOT / room).rglob("*.py")):
            if ">>>" in path.read_text():
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                told: list[str] = []
                for example in doctest.DocTestFinder().find(import_module(name), name):
                    ran += doctest.DocTestRunner(verbose=False).run(example, out=told.append)[1]
                wrong += told
    assert not wrong, "".join(wrong)
    assert ran > 50
