import numpy as np
import pytest

from tasks.smears.answers.agreement import consensus, discordant, kappa, majority, sensitivity

GROUPS = {str(i): f"patient {i % 10}" for i in range(1000)}


def test_readers_who_differ_have_no_consensus_until_a_third_decides() -> None:
    ada, ben = {"1": "p", "2": "u", "3": "p"}, {"1": "p", "2": "p"}
    assert discordant({"Ada": ada, "Ben": ben}) == ["2"]
    assert consensus({"Ada": ada, "Ben": ben}) == {"1": "p", "3": "p"}
    three = {"Ada": ada, "Ben": ben, "Cleo": {"2": "u"}}
    assert discordant(three) == []
    assert consensus(three)["2"] == "u"
    unsure = {"Ada": ada, "Eve": {"1": "unsure", "4": "unsure"}}
    assert (discordant(unsure), consensus(unsure)) == ([], ada | {"4": "unsure"})
    assert discordant({"Ada": ada}) == []
    assert majority([]) is None


def test_kappa_is_that_of_the_textbook() -> None:
    """Of 50, both say yes of 20 and no of 15: agreement .7, by chance .5, kappa .4."""
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    first, second = ({str(i): pair[k] for i, pair in enumerate(pairs)} for k in (0, 1))
    found = kappa(first, second, GROUPS)
    assert found is not None
    assert found.value == pytest.approx(0.4)
    assert found.low < 0.4 < found.high
    assert found.count == 50


def test_kappa_of_readers_who_share_nothing_or_say_one_thing_is_unknown() -> None:
    assert kappa({"1": "p"}, {"2": "p"}, GROUPS) is None
    assert kappa({"1": "p", "2": "p"}, {"1": "p", "2": "p"}, GROUPS) is None


def test_sensitivity_is_found_again_from_a_sample() -> None:
    """Of 10,000 cells 400 are parasitized, and the machine finds 300 of them."""
    rng = np.random.default_rng(0)
    truth = np.repeat([True, False], [400, 9600])
    called = truth & (np.arange(10_000) < 300)
    flagged = np.zeros(10_000, bool)
    flagged[250:320] = True  # 20 of them are parasites that it would have missed
    strata = list(zip(flagged.tolist(), np.where(called, "p", "u").tolist(), strict=True))
    of = {stratum: strata.count(stratum) for stratum in set(strata)}
    estimates = []
    for _ in range(20):
        read = rng.permutation(10_000)[:2000]
        names = [str(i) for i in read]
        found = sensitivity(
            {n: "p" if truth[i] else "u" for n, i in zip(names, read, strict=True)},
            {n: strata[i][1] for n, i in zip(names, read, strict=True)},
            {n: strata[i][0] for n, i in zip(names, read, strict=True)},
            of,
            {n: n[-1] for n in names},
            "p",
        )
        assert found is not None
        estimates.append(found.value)
    assert np.mean(estimates) == pytest.approx(320 / 400, abs=0.03)


def test_sensitivity_is_unknown_where_no_cell_is_parasitized() -> None:
    assert sensitivity({"1": "u"}, {"1": "u"}, {"1": True}, {(True, "u"): 9}, GROUPS, "p") is None
