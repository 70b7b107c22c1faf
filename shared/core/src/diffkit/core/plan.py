r"""A solver is a table, and one loop runs it.

Every method that is linear in (state, past predictions, noise) is a general linear method (Butcher 2006).
With memory m, of which slot 0 is the state, row k says

    x = U[k] m             where to evaluate
    d = D(x, t[k])         the denoiser, E[x0 | x_t]
    m = V[k] m + B[k] d + C[k] z

A row whose B is zero makes no call: it moves or mixes memory, or adds noise.

An author writes rows in the notation of the paper, with linear combinations of named vectors:

    x, d, z = vectors("x d z")
    Step(t, at=x, carry=(x * (s_u / s_t) + d * (a_u - a_t * s_u / s_t),))

Tables can be searched, inverted, compiled and compared, and a wrong weight shows as a wrong order.

A weight is a number, or a tensor that broadcasts over the state from the left (``[batch]``, ``[batch,
tokens]``, ``[1, channels, height, width]``): methods that know each element, and each sample or token on a
grid of its own. :func:`stack` makes such a plan of scalar ones.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from diffkit.core.types import Denoiser, Draw, begin, expand_as, leaves

Weight: TypeAlias = float | Tensor


@dataclass(frozen=True)
class Lin:
    """A linear combination of a plan's memory slots, the prediction d and the noise z."""

    weights: tuple[Weight, ...]

    def __add__(self, other: "Lin") -> "Lin":
        return Lin(tuple(p + q for p, q in zip(self.weights, other.weights, strict=True)))

    def __sub__(self, other: "Lin") -> "Lin":
        return self + other * -1.0

    def __mul__(self, factor: Weight) -> "Lin":
        return Lin(tuple(factor * w for w in self.weights))

    __rmul__ = __mul__

    def __truediv__(self, divisor: Weight) -> "Lin":
        return self * (1 / divisor)


def vectors(names: str) -> tuple[Lin, ...]:
    """Unit vectors for names like ``"x old d z"``: memory slots first, then d and z."""
    words = names.split()
    if len(words) < 3 or words[-2:] != ["d", "z"]:
        raise ValueError(f"name the memory, then d and z, as in 'x old d z'; got {names!r}.")
    return tuple(Lin(tuple(float(i == k) for i in range(len(words)))) for k in range(len(words)))


@dataclass(frozen=True)
class Step:
    """One evaluation: at time ``t``, at the point ``at``, after which memory is ``carry``."""

    t: float
    at: Lin
    carry: tuple[Lin, ...]


Terms: TypeAlias = tuple[tuple[int, Weight], ...]


class Row(NamedTuple):
    """A row of a plan as (slot, weight) pairs without the zeros; slots n and n + 1 are d and z."""

    at: Terms
    carry: tuple[Terms, ...]
    noisy: bool
    calls: bool


def _terms(weights: Tensor) -> Terms:
    """The weights ``[slots, ...]`` that are not zero, as numbers where they are the same for all elements."""
    if weights.ndim == 1:
        return tuple((i, w) for i, w in enumerate(weights.tolist()) if w != 0.0)
    flat = weights.flatten(1)
    same = (flat == flat[:, :1]).all(1).tolist()
    pairs = [(i, float(flat[i, 0]) if same[i] else w) for i, w in enumerate(weights)]
    return tuple((i, w) for i, w in pairs if not isinstance(w, float) or w != 0.0)


@dataclass(frozen=True, eq=False)
class Plan:
    """A tabulated method: times ``t`` ``[rows]``, ``U`` ``[rows, slots]``, ``V`` ``[rows, slots, slots]``,
    ``B`` and ``C`` ``[rows, slots]``, and the time ``end`` of the state it returns; float64 on the CPU.

    All may have further axes, the same for the tables: weights and times for each element (see the module).
    ValueError if a coefficient is not finite.
    """

    t: Tensor
    U: Tensor
    V: Tensor
    B: Tensor
    C: Tensor
    end: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    rows: tuple[Row, ...] = field(init=False, repr=False)
    levels: tuple[float, ...] = field(init=False, repr=False)
    """``t`` as numbers, the noisiest where elements differ."""

    def __post_init__(self) -> None:
        if not all(bool(torch.isfinite(table).all()) for table in (self.t, self.U, self.V, self.B, self.C)):
            raise ValueError(
                "the plan has coefficients that are not finite: a step is degenerate on this grid."
            )
        sources = torch.cat([self.V, self.B[:, :, None], self.C[:, :, None]], 2)
        rows = tuple(
            Row(_terms(at), tuple(_terms(slot) for slot in carry), bool(noise.any()), bool(call.any()))
            for at, carry, noise, call in zip(self.U, sources, self.C, self.B, strict=True)
        )
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "levels", tuple(float(t.max()) for t in self.t))

    @property
    def slots(self) -> int:
        """How many states the method carries."""
        return self.U.shape[1]

    @property
    def nfe(self) -> int:
        """Network calls: one for each row that uses its prediction."""
        return sum(row.calls for row in self.rows)

    def __getitem__(self, rows: slice) -> "Plan":
        """The plan of some consecutive rows, to go on from saved memory."""
        last = range(len(self.t))[rows].stop
        end = self.t[last] if last < len(self.t) else self.end
        return Plan(*(table[rows] for table in (self.t, self.U, self.V, self.B, self.C)), end=end)

    @property
    def noisy(self) -> bool:
        """Whether any row draws noise."""
        return any(row.noisy for row in self.rows)

    def inverse(self) -> "Plan":
        """The plan from the memory at this plan's end back to that at its start: exact, at the same calls.

        m' = V m + B d(U m) is undone by m = V^-1 (m' - B d) if the point U m can be read from m' without d,
        that is if U V^-1 B = 0. See :func:`invert`. ValueError if the plan draws noise or cannot be undone.
        """
        if self.noisy:
            raise ValueError("a plan that draws noise has no inverse.")
        square, singular = torch.linalg.inv_ex(self.V.movedim((1, 2), (-2, -1)))
        V = square.movedim((-2, -1), (1, 2))
        U = (self.U[:, :, None] * V).sum(1)
        leak = (U * self.B).sum(1).abs() > 1e-9 * U.abs().sum(1) * self.B.abs().sum(1)
        if bool(singular.any()) or bool(leak.any()):
            raise ValueError(
                "the plan has no exact inverse: it does not keep the points it evaluates; use bdia or edict."
            )
        B = -(V * self.B[:, None]).sum(2)
        tables = (table.flip(0) for table in (self.t, U, V, B, self.C))
        return Plan(*tables, end=self.t[0])


def tabulate(steps: Iterable[Step], end: float = 0.0) -> Plan:
    """The plan of an author's steps, which lead to the time ``end``."""
    steps = list(steps)
    if not steps:
        raise ValueError("a plan needs at least one step.")
    at = _table([step.at.weights for step in steps])
    carry = _table([[slot.weights for slot in step.carry] for step in steps])
    if bool(at[:, -2:].any()):
        raise ValueError("a step is evaluated at a combination of memory alone, before d and z exist.")
    t = torch.tensor([step.t for step in steps], dtype=torch.float64)
    V, B, C = carry[:, :, :-2], carry[:, :, -2], carry[:, :, -1]
    return Plan(t, at[:, :-2], V, B, C, torch.tensor(end, dtype=torch.float64))


def _table(weights: Sequence[Any]) -> Tensor:
    """Nested sequences of weights as one float64 tensor, the elements' axes last."""

    def flat(value: Any) -> list[Weight]:
        return [w for part in value for w in flat(part)] if isinstance(value, list | tuple) else [value]

    elements = [w for w in flat(weights) if isinstance(w, Tensor)]
    if not elements:
        return torch.tensor(weights, dtype=torch.float64)
    shape = torch.broadcast_shapes(*(w.shape for w in elements))

    def fill(value: Any) -> Tensor:
        if isinstance(value, list | tuple):
            return torch.stack([fill(part) for part in value])
        return torch.as_tensor(value, dtype=torch.float64).expand(shape)

    return fill(weights)


def stack(plans: Sequence[Plan], shape: Sequence[int]) -> Plan:
    """One plan of many scalar ones, each for one of the elements ``shape`` of the state (see the module).

    ValueError if they differ in their number of rows or slots.
    """
    if len({(len(plan.t), plan.slots) for plan in plans}) != 1:
        raise ValueError("plans of one state must have equally many rows: these grids need different ones.")

    def gather(tables: list[Tensor]) -> Tensor:
        return torch.stack(tables, -1).unflatten(-1, list(shape))

    tables = [gather([getattr(plan, name) for plan in plans]) for name in "UVBC"]
    t, end = gather([plan.t for plan in plans]), gather([plan.end for plan in plans])
    if bool((t.flatten(1) == t.flatten(1)[:, :1]).all()) and bool((end == end.flatten()[0]).all()):
        t, end = plans[0].t, plans[0].end
    return Plan(t, *tables, end=end)


def pause(plan: Plan, moves: Tensor, end: float) -> Plan:
    """``plan`` spread over the rows where ``moves`` ``[rows]`` is true; the others change nothing.

    A row that waits shows the denoiser the next point of the plan at its time; after the last, the result at
    ``end``, which is the plan's end.
    """
    index = moves.cumsum(0) - moves.long()
    still = torch.eye(plan.slots, dtype=torch.float64)

    def spread(table: Tensor, after: Tensor) -> Tensor:
        return torch.cat([table, after[None]])[index]

    def hold(table: Tensor, idle: Tensor) -> Tensor:
        table = spread(table, idle)
        return torch.where(moves.reshape(-1, *[1] * idle.ndim), table, idle)

    last = torch.tensor(end, dtype=torch.float64)
    nothing = torch.zeros_like(still[0])
    points = spread(plan.t, last), spread(plan.U, still[0])
    return Plan(*points, hold(plan.V, still), hold(plan.B, nothing), hold(plan.C, nothing), end=last)


class Frame(NamedTuple):
    """A row that has been run: its index and time (the noisiest where elements differ), the point, the prediction
    (None for a row that makes no call), memory after it."""

    step: int
    t: float
    x: Any
    x0: Any
    memory: list[Any]


Between: TypeAlias = Callable[[Frame], list[Any]]
"""``frame -> memory``, called after every row: steering permutes or edits the explicit memory."""


def _no_noise(step: int, like: Any) -> Any:
    raise ValueError("this plan draws noise: pass draw=Seeds(...) to say from which seeds.")


def _combine(terms: Terms, values: list[Any]) -> Tensor | None:
    """The weighted sum of ``values``, of which None is zero; a lone weight of 1 costs nothing."""
    total: Tensor | None = None
    for slot, weight in terms:
        value = values[slot]
        if value is None:
            continue
        plain = isinstance(weight, (float, int))  # a fraction of the time of isinstance(weight, Tensor)
        if total is None:
            total = value if plain and weight == 1.0 else value * weight
        else:
            total = total.add(value, alpha=weight) if plain else total.addcmul(value, weight)
    return total


def _mix(terms: Any, values: list[Any]) -> Any:
    if isinstance(terms, tuple):
        return _combine(terms, values)
    mixed = {n: _combine(part, [None if v is None else v[n] for v in values]) for n, part in terms.items()}
    return None if all(part is None for part in mixed.values()) else mixed


def _joint(plans: Mapping[str, Plan], x: Mapping[str, Tensor]) -> tuple[Row, ...]:
    """Rows of several leaves as one: terms become mappings of terms."""
    first = next(iter(plans.values()))
    parts = {name: _rows(plan, x[name]) for name, plan in plans.items()}
    for name, plan in plans.items():
        if plan.slots != first.slots or not torch.equal(plan.t, first.t):
            raise ValueError(
                f"leaf {name!r} is evaluated at other times: joint states need a solver on grid times."
            )
    return tuple(
        Row(
            {n: rows[k].at for n, rows in parts.items()},  # type: ignore[arg-type]
            tuple({n: rows[k].carry[i] for n, rows in parts.items()} for i in range(first.slots)),  # type: ignore[misc]
            any(rows[k].noisy for rows in parts.values()),
            any(rows[k].calls for rows in parts.values()),
        )
        for k in range(len(first.t))
    )


def integrate(
    denoise: Denoiser,
    x: Any,
    plan: Plan | Mapping[str, Plan],
    *,
    draw: Draw = _no_noise,
    between: Between | None = None,
    memory: list[Any] | None = None,
    full: bool = False,
) -> Any:
    """Run a plan from the state ``x`` and return the state at its end.

    Args:
        denoise: ``(x_t, t) -> E[x0 | x_t]``, with ``t`` float64 on the device of ``x``: a scalar, or the first
            axes of the state where elements have grids of their own.
        x: the state at the first time of the grid, ``[batch, ...]``, or a mapping of leaves.
        plan: of a solver; a mapping of plans, one for each leaf, for joint states.
        draw: noise for the rows that want it, keyed by row.
        between: edits memory after each row, of which it sees the frame.
        memory: all slots at the start instead of ``x`` alone, to go on after some rows; None is zero.
        full: return all slots at the end, in a list, instead of the state alone.

    Nothing here waits for the device; the loop unrolls under ``torch.compile(fullgraph=True)``.
    """
    times, levels, rows, slots = _prepare(x if memory is None else memory[0], plan)
    memory = [x] + [None] * (slots - 1) if memory is None else memory
    denoise, between = begin(denoise), begin(between)
    for k, row in enumerate(rows):
        point, d, memory = _advance(k, row, times[k], memory, denoise, draw)
        if between is not None:
            memory = between(Frame(k, levels[k], point, d, memory))
    return memory if full else memory[0]


def invert(denoise: Denoiser, x: Any, plan: Plan | Mapping[str, Plan]) -> list[Any]:
    """The memory from which ``plan`` leads to ``x``: the noise of an image, say, to edit and come back.

    >>> memory = invert(denoise, x0, plan)
    >>> x0 = integrate(denoise, x0, plan, memory=memory)

    Exact to rounding for the methods of :mod:`diffkit.core.solvers.reversible`, at the plan's own calls. The
    other slots at the end are taken to be zero, as they are for a state of which nothing else is known.
    """
    back = plan.inverse() if isinstance(plan, Plan) else {name: leaf.inverse() for name, leaf in plan.items()}
    return integrate(denoise, x, back, full=True)


def walk(
    denoise: Denoiser, x: Any, plan: Plan | Mapping[str, Plan], *, draw: Draw = _no_noise
) -> Iterator[Frame]:
    """The loop of :func:`integrate` as a generator of frames, for pictures, previews and progress."""
    times, levels, rows, slots = _prepare(x, plan)
    memory: list[Any] = [x] + [None] * (slots - 1)
    denoise = begin(denoise)
    for k, row in enumerate(rows):
        point, d, memory = _advance(k, row, times[k], memory, denoise, draw)
        yield Frame(k, levels[k], point, d, memory)


def _advance(
    k: int, row: Row, t: Tensor, memory: list[Any], denoise: Denoiser, draw: Draw
) -> tuple[Any, Any, list[Any]]:
    """One row: the point, the prediction there, and memory after it."""
    point = _mix(row.at, memory)
    d = denoise(point, t) if row.calls else None
    values = [*memory, d, draw(k, point) if row.noisy else None]
    return point, d, [_mix(terms, values) for terms in row.carry]


def _prepare(
    x: Any, plan: Plan | Mapping[str, Plan]
) -> tuple[tuple[Tensor, ...], tuple[float, ...], tuple[Row, ...], int]:
    """Times on the device of ``x`` and as numbers, rows whose weights are numbers or are shaped for ``x``, slots."""
    if isinstance(plan, Plan):
        first, rows = plan, _rows(plan, x)
    else:
        first, rows = next(iter(plan.values())), _joint(plan, x)
    device = leaves(x)[0].device
    t = first.t.to(device, torch.float32) if device.type == "mps" else first.t.to(device)
    return t.unbind(), first.levels, rows, first.slots


def _rows(plan: Plan, x: Tensor) -> tuple[Row, ...]:
    """The rows of a plan for the state ``x``."""
    if plan.U.ndim == 2:
        return plan.rows
    return tuple(
        Row(_shaped(row.at, x), tuple(_shaped(slot, x) for slot in row.carry), row.noisy, row.calls)
        for row in plan.rows
    )


def _shaped(terms: Terms, x: Tensor) -> Terms:
    return tuple((slot, expand_as(w, x) if isinstance(w, Tensor) else w) for slot, w in terms)
