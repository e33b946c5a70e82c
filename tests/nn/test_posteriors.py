"""Points and mixtures as posteriors, against torch.distributions; fitted transforms; layers of any widths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import distributions as td

from celbo.data.cells import CellData
from celbo.data.counts import CountMatrix
from celbo.data.schema import Schema
from celbo.errors import OptionError
from celbo.nn.latent import GaussianPosterior, Latent, MixturePosterior, PointPosterior
from celbo.nn.mlp import MLP
from celbo.nn.transforms import InputTransform

N, K, D = 5, 3, 2


def mixture() -> tuple[MixturePosterior, td.MixtureSameFamily]:
    g = torch.Generator().manual_seed(0)
    log_weight = torch.randn(N, K, generator=g).double().log_softmax(-1)
    mean = torch.randn(K, N, D, generator=g).double()
    scale = torch.rand(K, N, D, generator=g).double() + 0.2
    normal = td.Independent(td.Normal(mean.transpose(0, 1), scale.transpose(0, 1)), 1)
    expected = td.MixtureSameFamily(td.Categorical(logits=log_weight), normal)
    return MixturePosterior(log_weight, GaussianPosterior(mean, scale)), expected


def test_mixture_is_that_of_torch() -> None:
    q, expected = mixture()
    torch.testing.assert_close(q.mean, expected.mean)
    torch.testing.assert_close(q.variance, expected.variance)
    z = torch.randn(4, N, D, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z))


def test_draws_of_a_mixture_have_its_moments() -> None:
    q, expected = mixture()
    draws = q.sample(40_000, torch.Generator().manual_seed(2))
    assert draws.shape == (40_000, N, D)
    torch.testing.assert_close(draws.mean(0), expected.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(draws.var(0), expected.variance, atol=0.06, rtol=0.05)


def test_mixture_takes_cells() -> None:
    q, _ = mixture()
    index = torch.tensor([3, 0])
    taken = Latent(q).take(index).z
    torch.testing.assert_close(taken.mean, q.mean[index])


def test_a_point_has_no_spread_and_no_density() -> None:
    q = PointPosterior(torch.arange(6.0).view(3, 2))
    assert torch.equal(q.sample(4, None)[2], q.mean) and not q.variance.any()
    assert torch.equal(q.take(torch.tensor([1])).mean, q.mean[[1]])
    with pytest.raises(OptionError, match="no density"):
        q.log_prob(q.mean)


def cells() -> tuple[CellData, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.poisson(2.0, size=(40, 6)) + np.eye(40, 6, dtype=int)
    x[:, 5] = 0
    x[:, 0] += 1
    matrix = CountMatrix.from_scipy(sparse.csr_matrix(x))
    zeros = np.zeros(40, np.int64)
    data = CellData(
        counts=matrix, schema=Schema(features={"rna": tuple("abcdef")}), batch=zeros, labels=zeros,
        categorical=np.empty((40, 0), np.int64), continuous=np.empty((40, 0), np.float32), size_factor=None,
        library=matrix.total_counts().astype(np.float32), cell_names=np.array([str(i) for i in range(40)], object),
    )  # fmt: skip
    return data, x.astype(np.float64)


def expected(name: str, x: np.ndarray, train: np.ndarray) -> np.ndarray:
    target = np.median(x[train].sum(1))
    normal = np.log1p(x * target / x.sum(1, keepdims=True))
    if name == "scaled":
        sd = normal[train].std(0, ddof=1)
        return (normal - normal[train].mean(0)) / np.where(sd == 0, 1, sd)
    return {
        "counts": x,
        "log1p": np.log1p(x),
        "log-normalised": normal,
        "log2-normalised": normal / np.log(2),
        "log2-max": np.log2(1 + x) / np.log2(1 + x).max(1, keepdims=True),
    }[name]


NAMES = ["counts", "log1p", "log-normalised", "scaled", "log2-normalised", "log2-max"]


@pytest.mark.parametrize("name", NAMES)
def test_transforms_are_their_formulas_and_have_an_inverse(name: str) -> None:
    data, x = cells()
    train = np.arange(0, 40, 2)
    transform = InputTransform(name, 6)
    transform.fit(data, train)
    batch = data.minibatch(np.arange(40))
    values = transform(batch)
    np.testing.assert_allclose(values.numpy(), expected(name, x, train), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(transform.counts(values, batch).numpy(), x, rtol=1e-4, atol=1e-4)


def test_constants_come_from_the_training_cells_and_are_saved() -> None:
    data, _ = cells()
    one, other = InputTransform("scaled", 6), InputTransform("scaled", 6)
    one.fit(data, np.arange(10))
    other.load_state_dict(one.state_dict())
    batch = data.minibatch([20, 30])
    assert torch.equal(one(batch), other(batch))
    one.fit(data, np.arange(10, 40))
    assert not torch.equal(one(batch), other(batch))


def test_layers_of_any_widths() -> None:
    mlp = MLP(
        4,
        (8, 3),
        activation=("tanh", "linear"),
        batch_norm=True,
        batch_norm_scale=False,
        dropout_rate=0.5,
        generator=torch.Generator().manual_seed(0),
    )
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    mlp.eval()
    first, second = mlp.linears
    by_hand = second(torch.tanh(first(x) / (1 + 1e-3) ** 0.5)) / (1 + 1e-3) ** 0.5
    torch.testing.assert_close(mlp(x), by_hand)
    assert not any(norm.weight.requires_grad for norm in mlp.batch_norms) and mlp.n_out == 3
    mlp.train()
    draws = [mlp(x, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws) and (draws[0] == 0).any()
    none = MLP(4, (), generator=torch.Generator())
    assert none.n_out == 4 and torch.equal(none(x), x)
