from __future__ import annotations

from moa.grading.agreement import agreement
from moa.pipeline.judge_config import TrustConfig
from moa.pipeline.judging import why_refused


def test_a_judge_of_whom_nothing_can_be_told_beyond_chance_is_refused() -> None:
    anything = TrustConfig(min_labels=30, min_accuracy=0, min_kappa=-1)

    (why,) = why_refused(anything, agreement([(True, True)] * 100))

    assert "label some that are otherwise" in why
    assert not why_refused(anything, agreement([(True, True)] * 99 + [(False, True)]))


def test_what_may_be_too_low_is_refused_with_the_bound_that_is_wanted() -> None:
    mostly = [(True, True)] * 60 + [(False, False)] * 30 + [(True, False)] * 10

    low, beyond = why_refused(TrustConfig(min_accuracy=0.9, min_kappa=0.9), agreement(mostly))

    assert low.startswith("the share on which it agrees may be 0.8")
    assert "0.9 is needed" in low
    assert beyond.startswith("Cohen's kappa may be 0.")
    assert not why_refused(TrustConfig(min_accuracy=0.8, min_kappa=0.5), agreement(mostly))


def test_too_few_verdicts_prove_nothing() -> None:
    (why,) = why_refused(TrustConfig(min_labels=30), agreement([("a", "a")] * 29))

    assert why == "it gave 29 verdicts on labelled answers: 30 are needed"
