"""Operators of inverse problems, the dot test, conjugate gradients, and what bad measurements are told."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from diffkit.core.inverse.krylov import conjugate_gradients
from diffkit.core.inverse.linear import Average, Blur, Coils, Fourier, Mask, Matrix
from diffkit.core.inverse.operator import check_adjoint, decomposed, residual, solve, spectral
from diffkit.core.noise import Seeds


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Keyed normal values, both parts of unit variance where they are complex."""
    return Seeds([seed + 100 * i for i in range(shape[0])])(0, torch.empty(shape, dtype=dtype))


SHAPE = (2, 1, 6, 6)
KNOWN = random(1, 1, 6, 6, seed=5) > 0
OPERATORS: dict[str, tuple[Any, torch.dtype]] = {
    "mask": (Mask(KNOWN), torch.float64),
    "average": (Average(2), torch.float64),
    "blur": (Blur(random(3, 2, seed=1)), torch.float64),
    "matrix": (Matrix(random(10, 36, seed=2), (1, 6, 6)), torch.float64),
    "tall matrix": (Matrix(random(40, 36, seed=2), (1, 6, 6)), torch.float64),
    "complex mask": (Mask(KNOWN), torch.complex128),
    "complex average": (Average(3), torch.complex128),
    "complex blur": (Blur(random(3, 2, seed=1)), torch.complex128),
    "complex matrix": (Matrix(random(10, 36, dtype=torch.complex128), (1, 6, 6)), torch.complex128),
    "fourier": (Fourier(KNOWN), torch.complex128),
    "coils": (Coils(Fourier(KNOWN), random(4, 6, 6, seed=3, dtype=torch.complex128)), torch.complex128),
    "zero": (Mask(torch.zeros(6, 6)), torch.float64),
}
CASES = pytest.mark.parametrize(("operator", "dtype"), OPERATORS.values(), ids=OPERATORS)


def dense(operator: Any, dtype: torch.dtype) -> Tensor:
    """A as a matrix, from its columns."""
    columns = torch.eye(36, dtype=dtype).reshape(36, *SHAPE[1:])
    return operator.A(columns).flatten(1).mT


@CASES
def test_the_adjoint_is_the_adjoint(operator: Any, dtype: torch.dtype) -> None:
    x = torch.empty(SHAPE, dtype=dtype)
    assert check_adjoint(operator, x) < 1e-14
    single = x.to(torch.complex64 if x.is_complex() else torch.float32)
    assert check_adjoint(operator, single) < 1e-6
    assert operator.A(single).dtype == single.dtype


@pytest.mark.parametrize("name", [name for name in OPERATORS if name != "coils"])
def test_functions_of_the_singular_values(name: str) -> None:
    """V 1 V^H = 1, V S^2 V^H = A^H A, and the rank is that of the matrix."""
    operator, dtype = OPERATORS[name]
    assert decomposed(operator)
    x = random(*SHAPE, dtype=dtype)
    torch.testing.assert_close(spectral(operator, torch.ones_like, x), x)
    normal = operator.A_adjoint(operator.A(x))
    torch.testing.assert_close(spectral(operator, torch.square, x), normal)
    columns = torch.eye(36, dtype=dtype).reshape(36, *SHAPE[1:])
    projector = spectral(operator, lambda s: (s > 1e-9).to(s), columns).flatten(1)
    rank = int(torch.linalg.matrix_rank(dense(operator, dtype)))
    assert float(projector.trace().real) == pytest.approx(rank)


@CASES
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_solve_is_the_regularised_pseudo_inverse(operator: Any, dtype: torch.dtype, ridge: float) -> None:
    A = dense(operator, dtype)
    b = operator.A_adjoint(operator.A(random(*SHAPE, dtype=dtype)))
    normal = A.mH @ A + ridge * torch.eye(36, dtype=dtype)
    expected = (torch.linalg.pinv(normal, hermitian=True) @ b.flatten(1).mT).mT.reshape(SHAPE)
    # conjugate gradients stop at a residual of 2e-12, times the condition of the coils' normal equations
    torch.testing.assert_close(solve(operator, b, ridge), expected, rtol=1e-8, atol=1e-8)
    both = solve(operator, b, torch.tensor([ridge, 0.7], dtype=torch.float64))
    torch.testing.assert_close(both[0], expected[0], rtol=1e-8, atol=1e-8)


def test_what_they_compute() -> None:
    x = random(*SHAPE)
    delta = torch.zeros(3, 3)
    delta[1, 1] = 1
    torch.testing.assert_close(Blur(delta).A(x), x)
    torch.testing.assert_close(Blur(delta.roll(1, 0)).A(x), x.roll(1, -2))
    torch.testing.assert_close(Average(2).A(x), torch.nn.functional.avg_pool2d(x, 2))
    one_coil = Coils(Fourier(KNOWN), torch.ones(1, 6, 6))
    torch.testing.assert_close(one_coil.A(x + 0j), torch.fft.fft2(x, norm="ortho") * KNOWN)


class Wrong:
    """Multi-coil sampling whose adjoint has lost something."""

    def __init__(self, adjoint: Callable[[Tensor], Tensor]):
        self.A = OPERATORS["coils"][0].A
        self.A_adjoint = adjoint


@pytest.mark.parametrize(
    "lose",
    [
        lambda y: 0.5 * OPERATORS["coils"][0].A_adjoint(y),
        lambda y: (OPERATORS["coils"][0].sensitivity * torch.fft.ifft2(y * KNOWN, norm="ortho")).sum(
            -3, keepdim=True
        ),
        lambda y: OPERATORS["coils"][0].A_adjoint(y.conj()),
        lambda y: OPERATORS["coils"][0].A_adjoint(y).real + 0j,
    ],
    ids=["scale", "conjugate of the coils", "conjugate of y", "imaginary part"],
)
def test_a_wrong_adjoint_is_told_by_how_much(lose: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"differ by 0\.\d+ of their size"):
        check_adjoint(Wrong(lose), torch.empty(SHAPE, dtype=torch.complex128))


def test_an_adjoint_of_another_shape() -> None:
    with pytest.raises(ValueError, match="must return what A takes"):
        check_adjoint(
            Wrong(lambda y: OPERATORS["fourier"][0].A_adjoint(y)), torch.empty(SHAPE, dtype=torch.complex128)
        )


class TestConjugateGradients:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
    def test_solves_each_sample_in_as_many_steps_as_it_has_dimensions(self, dtype: torch.dtype) -> None:
        root = random(3, 8, 8, dtype=dtype)
        M, b = root.mH @ root, random(3, 8, seed=9, dtype=dtype)
        x = conjugate_gradients(lambda x: (M @ x[..., None])[..., 0], b, iterations=12)
        torch.testing.assert_close(x, torch.linalg.solve(M, b), rtol=1e-7, atol=1e-7)
        alone = conjugate_gradients(lambda x: (M[1:2] @ x[..., None])[..., 0], b[1:2], iterations=5)
        together = conjugate_gradients(lambda x: (M @ x[..., None])[..., 0], b, iterations=5)
        torch.testing.assert_close(together[1:2], alone, rtol=1e-12, atol=1e-12)

    def test_stops_per_sample_on_the_residual(self) -> None:
        """The easy sample is done at once and stays as it is; the hard one goes on."""
        M = torch.stack([torch.ones(8), torch.arange(1.0, 9.0)]).double()
        b = random(2, 8)
        calls = 0

        def count(x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return M * x

        x = conjugate_gradients(count, b, iterations=50, tolerance=1e-10, early=True)
        assert calls == 8  # the number of distinct eigenvalues of the hard sample
        torch.testing.assert_close(x, b / M, rtol=1e-9, atol=1e-9)
        once = conjugate_gradients(lambda x: M * x, b, iterations=1, tolerance=1e-10)
        assert torch.equal(once[0], x[0])

    def test_zero_systems_and_warm_starts(self) -> None:
        b = torch.zeros(2, 4, dtype=torch.float64)
        assert torch.equal(conjugate_gradients(lambda x: 0 * x, b, iterations=3), b)
        x0 = random(2, 4)
        assert torch.equal(conjugate_gradients(lambda x: x, x0, x0, iterations=3), x0)

    @pytest.mark.parametrize("options", [{"iterations": 0}, {"iterations": 1, "tolerance": float("nan")}])
    def test_bad_options(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="an iteration and a tolerance"):
            conjugate_gradients(lambda x: x, torch.ones(1, 1), **options)


class TestBadInput:
    @pytest.mark.parametrize(
        "measurement",
        [
            torch.zeros(2, 1, 3, 3).double(),
            torch.zeros(1, 1, 6, 6).double(),
            torch.zeros(SHAPE),
            torch.zeros(SHAPE, device="meta", dtype=torch.float64),
        ],
        ids=["shape", "batch", "dtype", "device"],
    )
    def test_measurements_of_another_kind(self, measurement: Tensor) -> None:
        with pytest.raises(
            ValueError, match=r"the measurement is .* and A\(x\) of this state is .*: give one"
        ):
            residual(Mask(KNOWN), measurement, torch.zeros(SHAPE).double())

    def test_states_that_do_not_fit(self) -> None:
        with pytest.raises(ValueError, match="blocks of 4 do not divide"):
            Average(4).A(torch.zeros(SHAPE))
        with pytest.raises(ValueError, match="larger than a state"):
            Blur(torch.ones(7, 7)).A(torch.zeros(SHAPE))
        with pytest.raises(ValueError, match="of complex states"):
            Fourier(KNOWN).A(torch.zeros(SHAPE))
        with pytest.raises(ValueError, match="it needs 36 columns"):
            Matrix(torch.ones(2, 35), (1, 6, 6))
