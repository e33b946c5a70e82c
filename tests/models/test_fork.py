"""Children that are forked after a training: they train and answer with the same bits, or say by name why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

SCRIPT = """
import hashlib, json, multiprocessing, warnings
import anndata, numpy, torch, celbo
from celbo import embed

warnings.simplefilter("ignore")
counts = numpy.random.default_rng(0).poisson(2.0, (90, 20)).astype(numpy.float32)
cells = anndata.AnnData(counts)
cells.obs["batch"] = ["a", "b", "c"] * 30

def trained(name):
    model = getattr(celbo, name)(cells, batch_key="batch", seed=1).train(max_epochs=2, progress=False)
    return hashlib.sha256(model.get_latent_representation().tobytes()).hexdigest()

def asked(_):
    return hashlib.sha256(model.get_latent_representation().tobytes()).hexdigest()

def graph(_):
    try:
        embed.umap(cells.copy(), n_neighbors=5)
    except celbo.errors.InputError as error:
        return str(error)
    return "no error"

torch.set_num_threads(1)  # as in a forked child: the bits are those of a number of threads
here = {name: trained(name) for name in NAMES}
model = celbo.SCVI(cells, batch_key="batch", seed=1).train(max_epochs=2, progress=False)
with multiprocessing.get_context("fork").Pool(2) as pool:
    there = dict(zip(NAMES, pool.map_async(trained, NAMES).get(250)))
    answer = pool.map_async(asked, range(2)).get(100)
    umap = pool.map_async(graph, range(1)).get(100)[0]
print(json.dumps({"same": here == there, "answer": answer == [here["SCVI"]] * 2, "umap": umap}))
"""


def _run(names: list[str]) -> dict[str, object]:
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}
    script = f"NAMES = {names}\n{SCRIPT}"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Terminating" not in done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_forked_children_train_and_answer_with_the_same_bits_and_refuse_what_would_end_them() -> None:
    found = _run(["SCVI", "VAE"])
    assert found["same"] and found["answer"]
    assert "forked after a model was trained" in str(found["umap"]) and "spawn" in str(found["umap"])


@pytest.mark.slow
def test_every_system_trains_in_a_forked_child_with_the_same_bits() -> None:
    names = ["SCVI", "LDVAE", "SCVAE", "VAE", "Autoencoder", "DCA", "AutoImpute", "SCVIS", "VASC", "HPF"]
    assert _run(names)["same"]


def test_the_serial_kernel_gives_the_bits_of_the_parallel_one() -> None:
    import numpy as np

    from celbo.kernels.compile import compiled, serial
    from celbo.kernels.cpu import run_parallel

    @compiled(parallel=True)
    def doubled(x: np.ndarray, out: np.ndarray) -> None:
        for i in range(len(x)):
            out[i] = 2 * x[i]

    x = np.arange(5.0)
    one, other = np.zeros(5), np.zeros(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba finds nothing to make parallel in it
        run_parallel(doubled, x, one)
    serial(doubled)(x, other)
    assert not serial(doubled).targetoptions["parallel"] and (one == other).all()
