"""A seed says what a model is, whatever else runs in the process: other threads, and the global random states."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import celbo

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "scvi": ("SCVI", {"batch_key": "batch", "categorical_covariate_keys": ("kind",), "n_layers": 2}),
    "scvi-2018": ("SCVI", {"batch_key": "batch", "config": celbo.SCVIConfig.paper_2018()}),
    "scvi-embedded": ("SCVI", {"batch_key": "batch", "batch_representation": "embedding", "dispersion": "gene-batch"}),
    "ldvae": ("LDVAE", {"batch_key": "batch"}),
    "scvae": ("SCVAE", {"batch_key": "batch", "prior": "gaussian-mixture", "n_components": 3}),
    "vae": ("VAE", {"likelihood": "zinb"}),
    "autoencoder": ("Autoencoder", {}),
    "dca": ("DCA", {"ae_type": "zinb"}),
    "autoimpute": ("AutoImpute", {"n_hidden": 50}),
    "scvis": ("SCVIS", {}),
    "vasc": ("VASC", {}),
    "hpf": ("HPF", {"n_components": 3, "initialisation": "dirichlet"}),
}
TRAINED = {"max_epochs": 2, "progress": False, "n_threads": 1}


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    """Return 120 cells of 30 genes in two batches."""
    counts = np.random.default_rng(0).poisson(2.0, (120, 30)).astype(np.float32)
    obs = pd.DataFrame({"batch": ["a", "b"] * 60, "kind": ["x", "y", "z"] * 40}, index=[f"cell{i}" for i in range(120)])
    return ad.AnnData(counts, obs)


def _made(cells: ad.AnnData, case: str, seed: int) -> Any:
    name, options = CASES[case]
    return getattr(celbo, name)(cells, seed=seed, **options)


def _weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_models_made_at_once_in_threads_have_the_weights_of_their_seeds(cells: ad.AnnData) -> None:
    jobs = [(case, seed) for seed in range(8) for case in CASES]
    alone = [_weights(_made(cells, *job)) for job in jobs]
    with ThreadPoolExecutor(16) as pool:
        at_once = list(pool.map(lambda job: _weights(_made(cells, *job)), jobs))
    assert [job for job, one, other in zip(jobs, alone, at_once, strict=True) if not _same(one, other)] == []


@pytest.mark.filterwarnings("ignore::celbo.errors.CelboWarning")
def test_models_trained_at_once_in_threads_end_at_the_bits_of_one_at_a_time(cells: ad.AnnData) -> None:
    jobs = [(case, seed) for seed in range(3) for case in ("scvi", "ldvae", "vae", "scvae", "hpf")]

    def ended(job: tuple[str, int]) -> dict[str, torch.Tensor]:
        return _weights(_made(cells, *job).train(**TRAINED))

    alone = [ended(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        at_once = list(pool.map(ended, jobs))
    assert [job for job, one, other in zip(jobs, alone, at_once, strict=True) if not _same(one, other)] == []


@pytest.mark.filterwarnings("ignore::celbo.errors.CelboWarning")
@pytest.mark.parametrize("case", CASES)
def test_no_model_touches_a_global_random_state_or_depends_on_it(cells: ad.AnnData, case: str) -> None:
    ended = []
    for state in (1, 2):
        torch.manual_seed(state)
        np.random.seed(state)  # noqa: NPY002 (the state that must not be touched)
        random.seed(state)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        model = _made(cells, case, 5).train(**TRAINED)
        latent = model.get_latent_representation()
        after = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
        assert torch.equal(before[0], after[0]) and (before[1] == after[1]).all()
        ended.append((_weights(model), latent))
    assert _same(ended[0][0], ended[1][0]) and np.array_equal(ended[0][1], ended[1][1])


def test_the_first_weights_of_a_seed_are_those_of_torchs_own_layers() -> None:
    from celbo.nn.layers import torch_linear

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        theirs = torch.nn.Linear(7, 5)
    ours = torch_linear(7, 5, generator=torch.Generator().manual_seed(11))
    assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)
