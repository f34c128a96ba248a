"""Slices: how columns are cut, and accuracies, gaps and tests against scipy, statsmodels and brute force."""

from itertools import combinations, product

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from thaw.scoring.slices import Slices, cut_slices, gap_test, readable_quantiles, score_slices


def cut(values: list[object], name: str = "column") -> Slices:
    return cut_slices(pa.table({name: values}), [name], set())[0]


def sizes(slices: Slices) -> dict[str, int]:
    return {value: int((slices.codes == code).sum()) for code, value in enumerate(slices.values)}


def test_words_are_sorted_and_what_is_missing_comes_last() -> None:
    found = cut(["b", "a", None, "b", ""])
    assert sizes(found) == {"a": 1, "b": 2, "(missing)": 2}
    assert found.kind == "category"
    assert sizes(cut([True, False, None, True])) == {"no": 1, "yes": 2, "(missing)": 1}


def test_few_numbers_stay_as_they_are_in_their_order() -> None:
    assert list(sizes(cut([10, 9, 100, None]))) == ["9", "10", "100", "(missing)"]
    assert list(sizes(cut([0.5, 2.0, float("nan")]))) == ["0.5", "2", "(missing)"]


def test_text_is_cut_into_bins_where_every_value_is_a_number_and_stays_as_written_elsewhere() -> None:
    written = [str(year) for year in range(100)]
    assert cut([*written, None, ""]).values == cut([*range(100), None, None]).values
    assert cut([*written, "unknown"]).kind == "category"
    assert cut([f"{code:03d}" for code in range(100)]).kind == "category"
    assert list(sizes(cut(["10", "9", "1E2", "100", "9", None]))) == ["9", "10", "100", "1E2", "(missing)"]
    assert list(sizes(cut(["007", "010", "7"]))) == ["007", "010", "7"]


def test_ages_are_cut_into_decades() -> None:
    found = cut([*range(0, 95, 3), None], "Age")
    assert found.kind == "bins"
    names = ["up to 9", "10–19", "20–29", "30–39", "40–49", "50–59", "60–69", "70 and more", "(missing)"]
    assert list(found.values) == names
    assert sizes(found)["up to 9"] == 4


def test_many_numbers_are_cut_into_fifths_at_round_numbers() -> None:
    found = cut(list(range(1000)))
    assert sizes(found) == {"up to 149": 150, "150–349": 200, "350–549": 200, "550–749": 200, "750 and more": 250}
    found = cut([x / 1000 for x in range(1000)])
    assert list(found.values) == ["below 0.15", "0.15 to 0.35", "0.35 to 0.55", "0.55 to 0.75", "0.75 and more"]
    assert len(cut([0] * 500 + list(range(20))).values) > 2


@pytest.mark.parametrize("first", [20240301, 1_700_000_000, 1_700_000_000_000, 1_700_000_000.5])
def test_numbers_that_differ_in_late_digits_have_bins_of_their_own(first: float) -> None:
    found = cut([first + day for day in range(31)])
    assert len(found.values) == 5
    assert min(sizes(found).values()) > 1


numbers = st.one_of(st.integers(-(10**6), 10**6), st.floats(-1e6, 1e6, allow_subnormal=False))


@given(st.lists(numbers, min_size=13, max_size=60, unique=True), st.integers(1, 40))
def test_bins_part_whatever_numbers_there_are(distinct: list[float], repeats: int) -> None:
    values = np.array([*distinct, *[distinct[0]] * repeats], dtype=float)
    if np.ptp(values) < 1e-3:
        return
    edges = readable_quantiles(values, whole=bool((values % 1 == 0).all()))
    assert (np.diff(edges) > 0).all()
    assert len(np.unique(np.digitize(values, edges))) > 1


def test_columns_that_serve_are_found() -> None:
    columns = {
        "label": ["x", "y"] * 20,
        "same": ["one"] * 40,
        "name": [f"file {row}" for row in range(40)],
        "camera": ["a", "b", "c", None] * 10,
        "weight": [float(row) for row in range(40)],
    }
    table = pa.table(columns)
    assert [it.column for it in cut_slices(table, None, {"label"})] == ["camera", "weight"]
    assert [len(it.values) for it in cut_slices(table, ["name"], {"label"})] == [40]


def answers(seeds: int, images: int, random: np.random.Generator) -> np.ndarray:
    return random.random((seeds, images)) < random.uniform(0.4, 0.95, images)


def test_accuracies_and_gaps_are_those_of_scipy_and_statsmodels() -> None:
    random = np.random.default_rng(0)
    table = pa.table({"first": random.choice(["a", "b", "c"], 400), "second": random.choice(["d", "e"], 400)})
    right = answers(1, 400, random)
    found = score_slices(cut_slices(table, None, set()), {"arm": right})
    tests = []
    for column in found:
        hits = {}
        for it in column.values:
            inside = np.array(table[column.column]) == it.value
            hits[it.value] = (int(right[0, inside].sum()), int(inside.sum()))
            own = it.arms["arm"]
            assert own.accuracy == pytest.approx(np.divide(*hits[it.value]))
            assert own.interval == pytest.approx(proportion_confint(*hits[it.value], method="wilson"))
            assert it.count == inside.sum()
        gap = column.gaps["arm"]
        shares = {value: hit / count for value, (hit, count) in hits.items()}
        assert (gap.low, gap.high) == (min(shares, key=shares.get), max(shares, key=shares.get))
        expected = confint_proportions_2indep(*hits[gap.high], *hits[gap.low], method="newcomb")
        assert gap.interval == pytest.approx(expected)
        for one, other in combinations(hits, 2):
            odds = [(hit, count - hit) for hit, count in (hits[one], hits[other])]
            tests.append((column.column, {one, other}, stats.fisher_exact(odds).pvalue))
    corrected = multipletests([p for *_, p in tests], method="holm")[1]
    for column in found:
        gap = column.gaps["arm"]
        place = [(name, pair) for name, pair, _ in tests].index((column.column, {gap.low, gap.high}))
        assert gap.p == pytest.approx(tests[place][2])
        assert gap.p_holm == pytest.approx(corrected[place])


def test_small_slices_are_listed_and_left_out_of_the_gap_but_for_a_pair() -> None:
    values = ["few"] * 10 + ["one"] * 50 + ["two"] * 50
    right = np.array([[False] * 10 + [True] * 90 + [False] * 10])
    (column,) = score_slices([cut(values)], {"arm": right})
    assert [(it.value, it.small) for it in column.values] == [("few", True), ("one", False), ("two", False)]
    assert (column.gaps["arm"].low, column.gaps["arm"].high) == ("two", "one")
    (column,) = score_slices([cut(["few"] * 10 + ["rest"] * 100)], {"arm": right})
    assert column.gaps["arm"].low == "few"
    (column,) = score_slices([cut(["few"] * 10 + ["rest"] * 80 + ["more"] * 20)], {"arm": right})
    assert column.gaps == {}


def test_flips_of_groups_are_counted_as_by_hand() -> None:
    random = np.random.default_rng(1)
    groups, first = np.repeat(np.arange(9), 6), np.tile([True, False], 27)
    right = answers(1, 54, random)
    score = right[0] - right[0].mean()
    parts = np.bincount(groups, score * (first - 0.5))
    totals = np.abs([np.dot(signs, parts) for signs in product([1, -1], repeat=9)])
    expected = (totals >= abs(parts.sum()) - 1e-12).mean()
    assert gap_test(right, first, ~first, groups) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("within", [True, False])
def test_a_gap_that_is_not_there_is_seldom_found_in_groups(within: bool) -> None:
    """Images of a group are right together: Fisher's test would find one between groups in every fourth study."""
    random, found, covered = np.random.default_rng(2), 0, 0
    groups = np.repeat(np.arange(40), 8)
    for _ in range(200):
        first = np.tile([True, False], 160) if within else (random.permutation(40) % 2 == 0)[groups]
        right = random.random((1, 320)) < random.beta(2, 0.5, 40)[groups]
        slices = Slices("half", "category", ("one", "other"), first.astype(np.int64))
        gap = score_slices([slices], {"arm": right}, groups)[0].gaps["arm"]
        found += gap.p < 0.05
        covered += gap.interval[0] <= 0 <= gap.interval[1]
    assert found <= 18
    assert covered >= 182
