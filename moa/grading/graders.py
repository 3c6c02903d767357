"""The graders by the names that a config gives them."""

from __future__ import annotations

from collections.abc import Callable

from moa.errors import ConfigError
from moa.grading.choice import ChoiceGrader
from moa.grading.code import CodeGrader
from moa.grading.exact import ExactGrader
from moa.grading.facts import FactsGrader
from moa.grading.grader import Grader
from moa.grading.maths import MathsGrader

GRADERS: dict[str, Callable[[], Grader]] = {
    "choice": ChoiceGrader,
    "code": CodeGrader,
    "exact": ExactGrader,
    "facts": FactsGrader,
    "maths": MathsGrader,
}


def make_grader(name: str) -> Grader:
    """Make the grader of a name.

    Raises:
        ConfigError: there is none of that name, or what it needs is not installed.
    """
    if name not in GRADERS:
        raise ConfigError(f"there is no grader {name!r}: choose from {', '.join(sorted(GRADERS))}")
    return GRADERS[name]()
