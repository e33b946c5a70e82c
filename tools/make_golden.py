"""Draw the golden files of the parity test: what scvi-tools 1.4.2 computes, in float64, on tiny networks.

Run it in the environment of the peer (`make golden`): make_golden.py FOLDER writes one `.safetensors` a likelihood.
Every case holds the options, the weights, one minibatch, the noise and dropout masks that a training step used, and
what came out: reconstruction, KL and decoded mean of each cell, and the gradient of the mean loss for every parameter.
The cases are the full product of likelihood, dispersion, library and covariates; the other options take turns.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scvi
import torch
from safetensors.torch import save_file
from scvi.module import VAE
from torch import Tensor

N_GENES, N_CELLS, N_BATCHES, N_LABELS, N_HIDDEN, N_LATENT = 20, 18, 3, 2, 12, 4
CATEGORIES = (3, 1)  # of the further covariates; one category says nothing and must be ignored
N_CONTINUOUS = 2
KL_WEIGHT = 0.3
LIKELIHOODS = ("nb", "zinb", "poisson", "normal")
DISPERSIONS = ("gene", "gene-batch", "gene-label", "gene-cell")

# Options that take turns, from another start for each likelihood, so that they meet in many ways.
STYLES: list[dict[str, Any]] = [
    {"n_layers": 1},
    {"n_layers": 2, "encode_covariates": True, "deeply_inject_covariates": True},
    {"n_layers": 2, "encode_covariates": True, "deeply_inject_covariates": False},
    {"n_layers": 2, "use_batch_norm": "none", "use_layer_norm": "both"},
    {"n_layers": 1, "latent_distribution": "ln", "use_layer_norm": "encoder"},
    {"n_layers": 1, "encode_covariates": True, "batch_representation": "embedding"},
    {"n_layers": 1, "use_batch_norm": "none", "dropout_rate": 0.0},
]


def cases(likelihood: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the options of each case of a likelihood."""
    turn = itertools.islice(itertools.cycle(STYLES), 2 * LIKELIHOODS.index(likelihood), None)
    dispersions = DISPERSIONS[:1] if likelihood == "poisson" else DISPERSIONS
    for dispersion, library, covariates in itertools.product(dispersions, ("observed", "latent"), (False, True)):
        options = {"dropout_rate": 0.2, **next(turn)}
        name = f"{dispersion}.{library}.{'covariates' if covariates else 'plain'}"
        yield name, {"dispersion": dispersion, "library": library, "covariates": covariates, **options}
    yield (
        "gene.size-factor.covariates",
        {"dispersion": "gene", "library": "size-factor", "covariates": True, "n_layers": 1, "dropout_rate": 0.2},
    )


def module_of(likelihood: str, case: dict[str, Any], library_prior: tuple[np.ndarray, np.ndarray]) -> VAE:
    """Build the network of a case with random weights, biases and normalisation constants."""
    style = {k: v for k, v in case.items() if k not in {"library", "covariates"}}
    module = VAE(
        N_GENES,
        n_batch=N_BATCHES,
        n_labels=N_LABELS,
        n_hidden=N_HIDDEN,
        n_latent=N_LATENT,
        gene_likelihood=likelihood,
        n_continuous_cov=N_CONTINUOUS if case["covariates"] else 0,
        n_cats_per_cov=list(CATEGORIES) if case["covariates"] else None,
        use_observed_lib_size=case["library"] != "latent",
        use_size_factor_key=case["library"] == "size-factor",
        library_log_means=library_prior[0],
        library_log_vars=library_prior[1],
        **style,
    ).double()
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif "library_log" not in name and value.is_floating_point() and value.dim() == 1 and name != "px_r":
                value.copy_(torch.randn_like(value) * 0.2 + (1.0 if name.endswith(".1.weight") else 0.0))
        # Totals near those of the counts: with far smaller means, the peer's 1e-8 inside the logs would show.
        module.l_encoder.mean_encoder.bias += 4.0
    return module


def minibatch(case: dict[str, Any], rng: np.random.Generator) -> dict[str, Tensor | None]:
    """Draw a minibatch in which every category occurs."""
    counts = rng.negative_binomial(1.0, 0.25, (N_CELLS, N_GENES))
    counts[:, 0] += 1  # no empty cell

    def codes(n: int) -> Tensor:
        return torch.from_numpy(rng.permutation(np.arange(N_CELLS) % n))[:, None]

    covariates = case["covariates"]
    size_factor = torch.from_numpy(rng.uniform(0.5, 2.0, (N_CELLS, 1)))
    return {
        "X": torch.from_numpy(counts).double(),
        "batch": codes(N_BATCHES),
        "labels": codes(N_LABELS),
        "extra_categorical_covs": torch.cat([codes(n) for n in CATEGORIES], 1) if covariates else None,
        "extra_continuous_covs": torch.from_numpy(rng.normal(size=(N_CELLS, N_CONTINUOUS))) if covariates else None,
        "size_factor": size_factor if case["library"] == "size-factor" else None,
    }


class Recorder:
    """Draws noise and dropout masks, and remembers them in the order of their use."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.noise: list[Tensor] = []
        self.masks: list[Tensor] = []

    def standard_normal(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Stand in for the noise of `Normal.rsample`."""
        self.noise.append(torch.randn(shape, generator=self.generator, dtype=dtype))
        return self.noise[-1]

    def dropout(self, layer: torch.nn.Dropout, x: Tensor) -> Tensor:
        """Stand in for `Dropout.forward`."""
        if not layer.training:
            return x
        self.masks.append(torch.rand(x.shape, generator=self.generator) >= layer.p)
        return x * self.masks[-1] / (1 - layer.p)


@contextmanager
def recorded(recorder: Recorder) -> Iterator[None]:
    """Let torch draw through the recorder; and let `linear` take the float32 one-hot codes of the peer in float64."""
    plain_linear, plain_dropout = torch.nn.functional.linear, torch.nn.Dropout.forward
    plain_normal = torch.distributions.normal._standard_normal

    def dropout(layer: torch.nn.Dropout, x: Tensor) -> Tensor:
        return recorder.dropout(layer, x)

    torch.nn.functional.linear = lambda x, w, b=None: plain_linear(x.to(w.dtype), w, b)
    torch.nn.Dropout.forward = dropout
    torch.distributions.normal._standard_normal = recorder.standard_normal
    try:
        yield
    finally:
        torch.nn.functional.linear, torch.nn.Dropout.forward = plain_linear, plain_dropout
        torch.distributions.normal._standard_normal = plain_normal


def terms(module: VAE, tensors: dict[str, Tensor | None]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss, and the reconstruction, KL and mean of each cell."""
    _, generative, loss = module(tensors, loss_kwargs={"kl_weight": KL_WEIGHT})
    out = {
        "reconstruction": loss.reconstruction_loss["reconstruction_loss"],
        "kl_z": loss.kl_local["kl_divergence_z"],
        "kl_library": loss.kl_local["kl_divergence_l"],
        "mean": generative["px"].mean,
    }
    return loss.loss, {name: value.detach() for name, value in out.items()}


_PER_CELL = ("reconstruction", "kl_z", "kl_library")


def draw(likelihood: str, case: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """Return everything of one case, by name."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tensors = minibatch(case, rng)
    log_totals = rng.normal(4.0, 0.3, (1, N_BATCHES)), rng.uniform(0.1, 0.5, (1, N_BATCHES))
    module = module_of(likelihood, case, log_totals)
    weights = {name: value.clone() for name, value in module.state_dict().items()}

    evaluated, trained = Recorder(2 * seed), Recorder(2 * seed + 1)
    with recorded(evaluated), torch.no_grad():
        _, evaluation = terms(module.eval(), tensors)
    with recorded(trained):
        loss, training = terms(module.train(), tensors)
    loss.backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    unused = {name for name, _ in module.named_parameters()} - gradients.keys()  # heads and encoders built for nothing

    inputs = {f"input/{k}": v.to(torch.uint8) if k == "X" else v for k, v in tensors.items() if v is not None}
    draws = {f"{mode}/noise/{i}": v for mode, r in _modes(evaluated, trained) for i, v in enumerate(r.noise)}
    masks = {f"training/mask/{i}": v for i, v in enumerate(trained.masks)}
    outputs = {f"training/{k}": v for k, v in training.items()} | {f"evaluation/{k}": evaluation[k] for k in _PER_CELL}
    weights = {f"weight/{k}": v for k, v in weights.items() if k not in unused and v.is_floating_point()}
    everything = (
        weights
        | {f"gradient/{k}": v for k, v in gradients.items()}
        | inputs
        | draws
        | masks
        | outputs
        | {"training/loss": loss.detach()}
    )
    return {name: value.contiguous() for name, value in everything.items()}


def _modes(evaluated: Recorder, trained: Recorder) -> tuple[tuple[str, Recorder], ...]:
    return ("evaluation", evaluated), ("training", trained)


def main(folder: str) -> None:
    """Write one file a likelihood."""
    torch.set_num_threads(1)
    for number, likelihood in enumerate(LIKELIHOODS):
        options = dict(cases(likelihood))
        drawn: dict[str, Tensor] = {}
        for i, (name, case) in enumerate(options.items()):
            drawn |= {f"{name}/{key}": value for key, value in draw(likelihood, case, 1000 * number + i).items()}
        about = {"peer": f"scvi-tools {scvi.__version__}", "kl_weight": str(KL_WEIGHT), "cases": json.dumps(options)}
        path = Path(folder) / f"{likelihood}.safetensors"
        save_file(drawn, path, metadata=about)
        print(f"{path}: {len(options)} cases, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
