"""Tests of what the benchmarks tell: the ratio of a figure, and the table of all of them."""

from tests.support.measuring import figure, ratio_table


def test_a_ratio_says_by_how_much_ours_is_better_and_is_taken_round_by_round() -> None:
    time = figure("time", "s", ours=[1.0, 2.0, 4.0], rival=[2.0, 2.0, 2.0])
    assert time["ratio"] == {"median": 1.0, "min": 0.5, "max": 2.0}
    speed = figure("speed", "/s", ours=[6.0], rival=[2.0], higher_is_better=True)
    assert speed["ratio"]["median"] == 3.0


def test_the_table_has_a_line_for_each_peer_and_limit() -> None:
    figures = [
        figure("alone", "s", ours=[1.0]),
        figure("beside a peer", "s", ours=[1.0], rival=[3.0]),
        figure("too slow", "ms", ours=[20.0], limit=10.0),
        figure("fast enough", "/s", ours=[20.0], limit=10.0, higher_is_better=True),
        figure("none changed", "images", ours=[0.0], limit=0.0),
    ]
    lines = ratio_table([row | {"file": "test_x.py"} for row in figures])
    assert [line.split() for line in lines] == [
        ["name", "ratio", "ours", "peer", "or", "limit", "file"],
        ["beside", "a", "peer", "3.00", "1", "s", "peer", "3", "s", "test_x.py"],
        ["too", "slow", "0.50", "20", "ms", "limit", "10", "ms:", "missed", "test_x.py"],
        ["fast", "enough", "2.00", "20", "/s", "limit", "10", "/s:", "met", "test_x.py"],
        ["none", "changed", "-", "0", "images", "limit", "0", "images:", "met", "test_x.py"],
    ]
    assert ratio_table([figures[0] | {"file": "test_x.py"}]) == []
