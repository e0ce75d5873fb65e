"""The table that says how often the verdict's interval holds: each network is judged by the others."""

import numpy as np

from dfmpc_onnx.evaluation.verdict import LAW_OF_GENERATED
from tools.experiments.verdict import Measured, law, table

TANGENTS = (0.05, 0.1, 0.2)


def rows(factors: dict[str, float]) -> list[Measured]:
    """Networks in which the odds of a change are a factor times the tangent."""
    made = []
    for name, factor in factors.items():
        for tangent in TANGENTS:
            changed = round(10_000 * factor * tangent / (1 + factor * tangent))
            few = (tangent, round(24 * changed / 10_000), 24)
            made.append(Measured(name, f"{tangent}", 20.0, tangent, *few, tangent, changed, 10_000))
    return made


def test_the_law_is_that_of_networks_and_a_folded_twin_is_no_network_of_its_own() -> None:
    found = law(rows({"a": 0.1, "afolded": 0.1, "b": 0.1 * 10**0.4}), lambda row: row.generated)
    assert abs(found.mean - (-1 + 0.2)) < 0.01 and found.freedom == 1
    assert abs(found.deviation - 0.4 / np.sqrt(2) * np.sqrt(1.5)) < 0.01


def test_a_network_that_others_say_nothing_of_is_missed() -> None:
    factors = dict(zip("abcdef", 0.15 * 10 ** np.array([-0.1, -0.05, 0, 0.02, 0.05, 0.1]), strict=True))
    lines = table(rows(factors))
    assert "without images: 18 of 18 rows lie in the interval (100 %)" in lines
    lines = table(rows({**factors, "odd": 5.0}))
    assert [line.split("|")[1].strip() for line in lines if "(missed)" in line].count("odd") >= 3


def test_the_law_of_the_product_is_one_of_at_least_ten_networks() -> None:
    assert LAW_OF_GENERATED.freedom >= 9 and 0.1 < LAW_OF_GENERATED.deviation < 0.5
