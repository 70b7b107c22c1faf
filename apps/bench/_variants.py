"""Solvers with their options, under the call that makes them: `adams(3, corrector=True)`."""

from typing import Any

from diffkit.core.solvers import Solver


def named(*choices: tuple[Any, ...]) -> dict[str, Solver]:
    """``(factory, *arguments)``, of which the last may be a dictionary of options."""
    made: dict[str, Solver] = {}
    for factory, *arguments in choices:
        options = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
        words = [*map(repr, arguments), *(f"{name}={value!r}" for name, value in options.items())]
        made[f"{factory.__name__}({', '.join(words)})"] = factory(*arguments, **options)
    return made
