"""Same weights, same minibatch, same noise and masks: the network computes what scvi-tools 1.4.2 computes, in float64.

The golden files are drawn by `make golden` (tools/make_golden.py). The peer adds 1e-8 inside its logs, we add nothing;
the cases have means large enough that this stays below the bounds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from celbo.data.minibatch import Minibatch, SparseRows
from celbo.data.schema import DataKeys, Schema
from celbo.likelihoods.base import CountParameters
from celbo.models.scvi import SCVIConfig, SCVINetwork
from celbo.nn.latent import GaussianPosterior
from celbo.nn.layers import Dropout
from celbo.training.plan import Loss, StepState

GOLDEN = Path(__file__).parent / "golden"
LIKELIHOODS = ("nb", "zinb", "poisson", "normal")
VALUES, GRADIENTS = 1e-6, 1e-5
"""Largest relative differences: entry by entry for values, by the norm of each tensor for gradients."""
Tensors = dict[str, Tensor]


@cache
def golden_file(likelihood: str) -> tuple[dict[str, Any], float, dict[str, Tensors]]:
    """Return the options and the tensors of each case, and the KL weight of the training steps."""
    with safe_open(GOLDEN / f"{likelihood}.safetensors", "pt") as file:
        about = file.metadata()
        cases = json.loads(about["cases"])
        tensors: dict[str, Tensors] = {case: {} for case in cases}
        for key in file.keys():  # noqa: SIM118 - not a dict
            case, name = key.split("/", 1)
            tensors[case][name] = file.get_tensor(key)
    return cases, float(about["kl_weight"]), tensors


NAMES = [f"{likelihood}:{case}" for likelihood in LIKELIHOODS for case in golden_file(likelihood)[0]]


def part(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def config_of(likelihood: str, options: dict[str, Any]) -> SCVIConfig:
    """Say the peer's options in our words."""
    return SCVIConfig(
        likelihood=likelihood,
        n_latent=4,
        n_hidden=12,
        n_layers=options["n_layers"],
        dropout_rate=options["dropout_rate"],
        dispersion=options["dispersion"],
        library="latent" if options["library"] == "latent" else "observed",
        latent_distribution="logistic-normal" if options.get("latent_distribution") == "ln" else "normal",
        batch_norm=options.get("use_batch_norm", "both"),
        layer_norm=options.get("use_layer_norm", "none"),
        batch_representation=options.get("batch_representation", "one-hot"),
        encode_covariates=options.get("encode_covariates", False),
        inject_covariates="every" if options.get("deeply_inject_covariates", True) else "first",
    )


def schema_of(options: dict[str, Any]) -> Schema:
    """Return the schema of the golden data: 20 genes, 3 batches, 2 labels and, where asked for, covariates."""
    covariates = options["covariates"]
    return Schema(
        features={"rna": tuple(f"gene{i}" for i in range(20))},
        batches=("a", "b", "c"),
        labels=("x", "y"),
        covariates={"site": ("p", "q", "r"), "only": ("o",)} if covariates else {},
        keys=DataKeys(
            size_factor_key="size" if options["library"] == "size-factor" else None,
            categorical_covariate_keys=("site", "only") if covariates else (),
            continuous_covariate_keys=("age", "mass") if covariates else (),
        ),
    )


def minibatch_of(given: Tensors) -> Minibatch:
    """Return the golden cells as our minibatch, in float64."""
    counts = given["X"].double()
    n = counts.shape[0]
    return Minibatch(
        rows=SparseRows.from_dense(counts),
        library=counts.sum(1),
        batch=given["batch"][:, 0],
        labels=given["labels"][:, 0],
        categorical=given.get("extra_categorical_covs", torch.zeros(n, 0, dtype=torch.int64)),
        continuous=given.get("extra_continuous_covs", torch.zeros(n, 0, dtype=torch.float64)),
        index=torch.arange(n),
        size_factor=given["size_factor"][:, 0] if "size_factor" in given else None,
    )


# -- names and layout: from the peer's parameters to ours --------------------------------------------------------------


def stack(peer: Tensors, prefix: str, n_in: int, categories: list[int]) -> Iterator[tuple[str, Tensor]]:
    """Yield our entries of a stack of hidden layers; the peer's one-hot columns follow the `n_in` dense ones."""
    depth = len({name.split("Layer ")[1].split(".")[0] for name in peer if name.startswith(prefix)})
    for i in range(depth):
        layer = f"{prefix}.fc_layers.Layer {i}."
        weight = peer[layer + "0.weight"]  # (out, in)
        inner, *tables = weight.split([n_in, *categories] if weight.shape[1] > n_in else [n_in], dim=1)
        first = "first." if i == 0 else f"hidden.linears.{i - 1}."
        yield first + "weight", inner
        yield first + "bias", peer[layer + "0.bias"]
        yield from ((f"hidden.shifts.{i}.tables.{k}", table.T) for k, table in enumerate(tables))
        for name in ("weight", "bias", "running_mean", "running_var"):
            if layer + "1." + name in peer:
                yield f"hidden.batch_norms.{i}.{name}", peer[layer + "1." + name]
        n_in = weight.shape[0]


def encoder(peer: Tensors, prefix: str, n_dense: int, categories: list[int]) -> Iterator[tuple[str, Tensor]]:
    """Yield our entries of an encoder: genes-major first weights, and one head for mean and variance."""
    for name, value in stack(peer, f"{prefix}.encoder", n_dense, categories):
        if name == "first.weight":
            yield name, value[:, :20].T
            if n_dense > 20:
                yield "beside.weight", value[:, 20:]
        else:
            yield name, value
    for name in ("weight", "bias"):
        yield f"head.{name}", torch.cat([peer[f"{prefix}.{part}_encoder.{name}"] for part in ("mean", "var")])


def translated(peer: Tensors, network: SCVINetwork) -> Tensors:
    """Return the peer's weights (or gradients) under our names and in our layout."""
    ours: Tensors = {}
    n_beside = network.decoder.first.in_features - network.config.n_latent
    categories = [table.shape[0] for table in network.decoder.hidden.shifts[0].tables]
    encoded = network.config.encode_covariates
    for theirs, own in (("z_encoder", "z_encoder"), ("l_encoder", "library_encoder")):
        if f"{theirs}.mean_encoder.weight" in peer:
            entries = encoder(peer, theirs, 20 + n_beside * encoded, categories if encoded else [])
            ours |= {f"{own}.{name}": value for name, value in entries}
    n_in = network.config.n_latent + n_beside
    ours |= {f"decoder.{k}": v for k, v in stack(peer, "decoder.px_decoder", n_in, categories)}
    heads = {"px_scale_decoder.0": "mean", "px_r_decoder": "theta", "px_dropout_decoder": "dropout"}
    for theirs, own in heads.items():
        found = {n: peer[f"decoder.{theirs}.{n}"] for n in ("weight", "bias") if f"decoder.{theirs}.{n}" in peer}
        ours |= {f"decoder.heads.{own}.{name}": value.t() for name, value in found.items()}  # ours: (hidden, genes)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    if "px_r" in peer:  # (genes,) or (genes, categories)
        ours["log_theta"] = peer["px_r"].reshape(shapes["log_theta"][::-1]).T
    for theirs, own in (("library_log_means", "library_mean"), ("library_log_vars", "library_variance")):
        if theirs in peer:
            ours[own] = peer[theirs].reshape(shapes[own])
    if "_embeddings_dict.batch.weight" in peer:
        ours["batch_embedding.weight"] = peer["_embeddings_dict.batch.weight"]
    return ours


# -- the same step on our side ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One golden case, and our network with the peer's weights."""

    network: SCVINetwork
    minibatch: Minibatch
    peer: Tensors
    kl_weight: float

    def loss(self, mode: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Loss, list[CountParameters]]:
        """Return our loss, and the decoded parameters, with the peer's noise and masks instead of random ones."""
        noise, masks = (iter(part(self.peer, f"{mode}/{what}/").values()) for what in ("noise", "mask"))
        decoded: list[CountParameters] = []
        decode = self.network.decode

        def remember(*given: Any) -> CountParameters:
            decoded.append(decode(*given))
            return decoded[-1]

        monkeypatch.setattr(GaussianPosterior, "sample", lambda q, n, generator: q.mean + q.scale * next(noise)[None])
        monkeypatch.setattr(Dropout, "mask", lambda layer, x, generator: next(masks).double() / (1 - layer.rate))
        monkeypatch.setattr(self.network, "decode", remember)
        self.network.train(mode == "training")
        return self.network.loss(self.minibatch, StepState(0, 0, torch.Generator())), decoded


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> Case:
    """Return each golden case, with the peer's weights in our network."""
    likelihood, name = request.param.split(":")
    cases, kl_weight, tensors = golden_file(likelihood)
    generator = torch.Generator().manual_seed(0)
    network = SCVINetwork(config_of(likelihood, cases[name]), schema_of(cases[name]), generator).double()
    counters = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    network.load_state_dict(translated(part(tensors[name], "weight/"), network) | counters)
    return Case(network, minibatch_of(part(tensors[name], "input/")), tensors[name], kl_weight)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """Check values entry by entry."""
    torch.testing.assert_close(ours.detach(), theirs, rtol=VALUES, atol=0.0)


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_reconstruction_of_each_cell(case: Case, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, _ = case.loss(mode, monkeypatch)
    assert_same(loss.reconstruction, case.peer[f"{mode}/reconstruction"])


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_divergence_of_each_cell(case: Case, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, _ = case.loss(mode, monkeypatch)
    assert_same(loss.kl["z"], case.peer[f"{mode}/kl_z"])
    assert_same(loss.kl.get("library", torch.zeros_like(loss.kl["z"])), case.peer[f"{mode}/kl_library"])


def test_decoded_mean_of_each_entry(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    _, (decoded,) = case.loss("training", monkeypatch)
    assert_same(case.network.likelihood.mean(decoded)[0], case.peer["training/mean"])


def test_gradient_of_each_parameter(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, _ = case.loss("training", monkeypatch)
    loss.total({"z": torch.tensor(case.kl_weight, dtype=torch.float64)}).backward()
    theirs = translated(part(case.peer, "gradient/"), case.network)
    ours = {name: p.grad for name, p in case.network.named_parameters() if p.grad is not None}
    normalised = {name for name in ours if has_no_gradient(name, case.network)}
    assert ours.keys() == theirs.keys()
    differences = {n: float((ours[n] - theirs[n]).norm() / theirs[n].norm()) for n in ours.keys() - normalised}
    assert {name: difference for name, difference in differences.items() if not difference < GRADIENTS} == {}


def has_no_gradient(name: str, network: SCVINetwork) -> bool:
    """Return whether a parameter is a bias that batch normalisation subtracts again."""
    side = name.partition(".")[0]
    before = name.endswith("first.bias") or (".hidden.linears." in name and name.endswith("bias"))
    return before and len(network.get_submodule(side).hidden.batch_norms) > 0
