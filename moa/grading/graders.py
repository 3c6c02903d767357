"""The graders by the names that a config gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from moa.errors import ConfigError
from moa.grading.choice import ChoiceGrader
from moa.grading.code import CodeGrader
from moa.grading.exact import ExactGrader
from moa.grading.facts import FactsGrader
from moa.grading.grader import Grader
from moa.grading.maths import MathsGrader
from moa.grading.own import OwnGrader

GRADERS: dict[str, Callable[..., Grader]] = {
    "choice": ChoiceGrader,
    "code": CodeGrader,
    "exact": ExactGrader,
    "facts": FactsGrader,
    "maths": MathsGrader,
}


def open_grader(name: str, options: Mapping[str, object] = MappingProxyType({})) -> Grader:
    """The grader of a name, or one's own.

    Args:
        name: one of `GRADERS`, or `MODULE:FUNCTION`.
        options: what it is to be told, by the names of its parameters.

    Raises:
        ConfigError: there is no such grader, it takes no such option, or it cannot work here.
    """
    if ":" not in name and name not in GRADERS:
        raise ConfigError(
            f"graders: {name!r} is none; there are {', '.join(sorted(GRADERS))}, and your own as "
            "MODULE:FUNCTION"
        )
    given: dict[str, Any] = dict(options)
    try:
        return OwnGrader(name, **given) if ":" in name else GRADERS[name](**given)
    except TypeError as error:
        raise ConfigError(f"graders: options of {name!r}: {error}") from None
