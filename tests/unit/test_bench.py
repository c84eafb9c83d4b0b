from __future__ import annotations

import json

import pytest

from bench.figures import BARE, HEADINGS, OURS, STOCK, Figure, Target, markdown, report


def make_figure(target: Target | None = None, **seconds: list[float]) -> Figure:
    figure = Figure("spawn", "one start", target or Target())
    for contender, samples in seconds.items():
        for sample in samples:
            figure.add(contender, sample)
    return figure


def test_a_ratio_is_one_of_medians_so_that_a_busy_moment_does_not_count() -> None:
    figure = make_figure(bare=[0.5, 0.4, 9.0], ours=[0.6, 0.6, 30.0])
    assert figure.median(BARE) == 0.5
    assert figure.ratio(OURS) == pytest.approx(1.2)
    assert figure.worst(OURS) == 30.0


def test_who_was_not_measured_has_no_figures() -> None:
    figure = make_figure(ours=[1.0])
    assert figure.median(STOCK) is None
    assert figure.worst(STOCK) is None
    assert figure.ratio(STOCK) is None
    assert figure.ratio(OURS) is None, "there is no bare engine to compare with"


@pytest.mark.parametrize(
    ("target", "ours", "is_met"),
    [
        (Target(), [1.0], None),
        (Target(ratio=1.3), [0.65], True),
        (Target(ratio=1.3), [0.66], False),
        (Target(ratio=1.3), [], None),
        (Target(median_s=0.25, worst_s=1.0), [0.2, 0.2, 1.0], True),
        (Target(median_s=0.25, worst_s=1.0), [0.2, 0.2, 1.1], False),
        (Target(median_s=0.25, worst_s=1.0), [0.3], False),
    ],
)
def test_a_target_is_met_when_all_of_it_is(
    target: Target, ours: list[float], is_met: bool | None
) -> None:
    assert make_figure(target, bare=[0.5], ours=ours).is_met() is is_met


def test_a_failure_of_ours_misses_the_target_and_shows_in_its_cell() -> None:
    figure = make_figure(Target(ratio=1.3), bare=[0.5], ours=[0.5])
    figure.add_failure(OURS)
    assert figure.is_met() is False
    assert "failed 1 of 2" in figure.cells()[3]


def test_a_row_has_a_cell_for_each_heading() -> None:
    figure = make_figure(Target(ratio=1.3), bare=[0.5, 0.7], stock=[1.2], ours=[0.6])
    figure.add_failure(STOCK)
    cells = dict(zip(HEADINGS, figure.cells(), strict=True))
    assert cells == {
        "what": "one start",
        "bare engine": "0.60 s (worst 0.70)",
        "stock": "1.20 s (worst 1.20), failed 1 of 2",
        "ours": "0.60 s (worst 0.60)",
        "stock / bare": "2.00",
        "ours / bare": "1.00",
        "target": "1.30 x bare",
        "met": "yes",
    }


def test_markdown_has_a_line_for_each_figure() -> None:
    lines = markdown([make_figure(bare=[1.0]), make_figure()]).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {len(HEADINGS) + 1}
    assert "| - | - | - | - |" in lines[3]


def test_json_holds_every_sample_and_what_is_known_about_the_run() -> None:
    figure = make_figure(Target(ratio=1.3), bare=[0.5], ours=[0.6, 0.61])
    data = json.loads(json.dumps(report([figure], {"took_s": 3})))
    assert data["took_s"] == 3
    (shown,) = data["figures"]
    assert shown["seconds"] == {"bare": [0.5], "ours": [0.6, 0.61]}
    assert shown["medians"] == {"bare": 0.5, "stock": None, "ours": 0.605}
    assert shown["ratios"] == {"stock": None, "ours": 1.21}
    assert shown["is_met"] is True
