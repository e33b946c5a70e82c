"""The command line: exit codes, precedence of options, what it prints, and how fast it starts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import celbo
from celbo.cli.app import main
from celbo.cli.models import OPTIONS
from celbo.cli.options import options_for
from celbo.cli.signals import ended_as_by_ctrl_c
from celbo.pipeline.config import RunConfig, config_for, flat, options_of, to_toml
from celbo.pipeline.steps import BUILT_IN

COMMANDS = ("demo", "run", "check", "train", "latent", "de", "denoise", "embed", "compare", "completion")


@pytest.fixture(scope="session")
def counts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small file of counts in two batches."""
    adata = celbo.datasets.simulate(n_cells=150, n_genes=60, n_batches=2, n_cell_types=2, seed=1)
    adata = anndata.AnnData(
        adata.X, obs=adata.obs[["batch", "cell_type"]].copy(), var=pd.DataFrame(index=adata.var_names)
    )
    path = tmp_path_factory.mktemp("counts") / "counts.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def bad_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a value that is no count."""
    path = tmp_path_factory.mktemp("bad") / "bad.h5ad"
    values = np.ones((5, 4), np.float32)
    values[3, 2] = -1
    anndata.AnnData(sparse.csr_matrix(values)).write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def trained(counts_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of `celbo train`."""
    out = tmp_path_factory.mktemp("trained") / "out"
    options = ["--batch-key", "batch", "--n-hidden", "16", "--n-latent", "4", "--max-epochs", "2", "--quiet"]
    assert main(["train", str(counts_file), "--out", str(out), *options]) == 0
    return out


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, object]:
    """Return the options that --print-config prints, flat."""
    assert main([*argv, "--print-config"]) == 0
    tables = tomllib.loads(capsys.readouterr().out)
    return {
        k: v for name, value in tables.items() for k, v in (value if isinstance(value, dict) else {name: value}).items()
    }


# ---------------------------------------------------------------------------------------------------------- exit codes


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"celbo {celbo.__version__}\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(re.search(rf"\b{command}\b", told) for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_for_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help-all" if command in ("run", "train") else "--help"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\u2502 +(\* +)?--", line)]
    assert rows or command in ("check", "completion")
    assert [row for row in rows if not re.search(r"\S  +\S|[a-z]-\S*\s*\u2502$", row)] == []


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["rnu"], 'Did you mean "run"'),
        (["run", "a.h5ad", "--n-latnt", "3"], "Did you mean --n-latent"),
        (["run", "a.h5ad", "--likelihood", "gamma"], "zinb"),
        (["run", "a.h5ad", "--n-latent", "many"], "--n-latent is not a whole number: 'many'"),
        (["run", "a.h5ad", "--n-latent", "2.5"], "--n-latent is not a whole number: '2.5'"),
        (["run", "a.h5ad", "--train-size", "3", "--out", "x"], "train_size"),
        (["run", "a.h5ad"], "--out"),
        (["run", "a.h5ad", "--config", "none.toml"], "none.toml cannot be read"),
        (["run"], "--out"),
        (["run", "a.h5ad", "--out", "x", "--seed", "-1"], "option 'seed' has an impossible value"),
        (["run", "a.h5ad", "--out", "x", "--n-neighbors", "-3"], "option 'n_neighbors'"),
        (["check"], "Name at least one file"),
        (["de", "model", "a.h5ad"], "--groupby"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_told_in_two_lines(
    argv: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert said.out == ""
    assert len(said.err.splitlines()) <= 2


def test_missing_file_is_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "none.h5ad"), "--out", str(tmp_path / "out")]) == 3
    said = capsys.readouterr().err
    assert "none.h5ad" in said
    assert "Traceback" not in said


def test_bad_counts_are_exit_code_3_and_name_the_cell(
    bad_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(bad_file), "--out", str(tmp_path / "out")]) == 3
    assert (
        "CountsError: X holds values that are not counts: cell '3' (row 3), gene '2' is -1." in capsys.readouterr().err
    )


def test_failed_training_is_exit_code_4(
    counts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from celbo.models.scvi import SCVINetwork

    monkeypatch.setattr(SCVINetwork, "transform_latent", lambda self, z: z * torch.tensor(float("nan")))
    assert main(["train", str(counts_file), "--out", str(tmp_path / "out"), "--max-epochs", "1", "--quiet"]) == 4
    assert "TrainingError" in capsys.readouterr().err


def test_interrupt_is_exit_code_130_and_tells_how_to_resume(
    counts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from celbo.training.progress import Progress

    shown = Progress.epoch

    def interrupt(self: Progress, row: Mapping[str, float]) -> None:
        if self._done == 1:
            raise KeyboardInterrupt
        shown(self, row)

    monkeypatch.setattr(Progress, "epoch", interrupt)
    assert main(["train", str(counts_file), "--out", str(tmp_path / "out"), "--max-epochs", "3", "--quiet"]) == 130
    assert f"--resume --out {tmp_path / 'out'}" in capsys.readouterr().err


def test_a_bug_is_told_in_two_lines_and_debug_shows_it(
    counts_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("celbo.data.check.check", broken)
    assert main(["check", str(counts_file)]) == 1
    assert "ZeroDivisionError: oops" in capsys.readouterr().err
    monkeypatch.setenv("CELBO_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["check", str(counts_file)])


# ---------------------------------------------------------------------------------------------------------- precedence


def test_flag_wins_over_file_and_file_over_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.toml").write_text("n_latent = 20\n[train]\nmax_epochs = 7\nbatch_size = 32\n")
    found = printed(capsys, "run", "x.h5ad", "--config", str(tmp_path / "a.toml"), "--max-epochs", "9")
    assert (found["n_latent"], found["max_epochs"], found["batch_size"], found["n_hidden"]) == (20, 9, 32, 128)


def test_none_on_the_command_line_undoes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.toml").write_text("max_epochs = 7\n")
    assert "max_epochs" not in printed(capsys, "run", "--config", str(tmp_path / "a.toml"), "--max-epochs", "none")


def test_data_come_from_the_file_unless_they_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.toml").write_text('data = ["there.h5ad"]\n')
    assert printed(capsys, "run", "--config", str(tmp_path / "a.toml"))["data"] == ["there.h5ad"]
    assert printed(capsys, "run", "here.h5ad", "--config", str(tmp_path / "a.toml"))["data"] == ["here.h5ad"]


def test_whole_numbers_are_epochs_and_fractions_are_shares(capsys: pytest.CaptureFixture[str]) -> None:
    whole = printed(capsys, "run", "x.h5ad", "--kl-warmup", "3")["kl_warmup"]
    share = printed(capsys, "run", "x.h5ad", "--kl-warmup", "0.3")["kl_warmup"]
    assert (type(whole), whole, type(share), share) == (int, 3, float, 0.3)


def test_unknown_key_in_the_file_is_exit_code_2_with_the_nearest_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.toml").write_text("n_laten = 20\n")
    assert main(["run", "x.h5ad", "--config", str(tmp_path / "a.toml"), "--print-config"]) == 2
    assert "Did you mean 'n_latent'?" in capsys.readouterr().err


def test_printed_options_are_a_file_of_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--l1", "decoder", "0.1", "--no-early-stopping", "--kl-warmup-terms", "z", "--covariate", "no"][:6]
    assert main(["run", "x.h5ad", *flags, "--print-config"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "a.toml").write_text(text)
    assert main(["run", "--config", str(tmp_path / "a.toml"), "--print-config"]) == 0
    assert capsys.readouterr().out == text


# ------------------------------------------------------------------------------------------------------------ commands


def test_check_prints_what_is_in_the_file(counts_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(counts_file)]) == 0
    told = capsys.readouterr().out
    assert "150 cells x 60 genes" in told
    assert "'batch'" in told
    assert "'cell_type'" in told


def test_check_of_bad_counts_is_exit_code_3(bad_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(bad_file)]) == 3
    assert "gene '2' is -1" in capsys.readouterr().out


def test_train_leaves_a_model_and_its_options(trained: Path) -> None:
    assert {p.name for p in trained.iterdir()} == {"run.toml", "model", "tables", "versions.yml"}
    assert tomllib.loads((trained / "run.toml").read_text())["network"]["n_latent"] == 4


def test_latent_of_a_model_is_a_table_of_its_cells(trained: Path, counts_file: Path, tmp_path: Path) -> None:
    assert main(["latent", str(trained), str(counts_file), "--out", str(tmp_path / "z.parquet"), "--quiet"]) == 0
    assert pd.read_parquet(tmp_path / "z.parquet").shape == (150, 4)


def test_latent_without_cells_is_exit_code_2(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latent", str(trained)]) == 2
    assert "Name a file of counts" in capsys.readouterr().err


def test_latent_of_no_model_is_exit_code_3(
    counts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["latent", str(tmp_path), str(counts_file)]) == 3
    assert "is not a saved model" in capsys.readouterr().err


def test_de_compares_each_group_with_the_rest(trained: Path, counts_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "de.csv"
    command = ["de", str(trained), str(counts_file), "--groupby", "cell_type", "--n-samples", "100", "--out", str(out)]
    assert main([*command, "--quiet"]) == 0
    found = pd.read_csv(out)
    assert len(found) == 2 * 60
    assert set(found["group2"]) == {"rest"}


def test_de_compares_two_groups(trained: Path, counts_file: Path, tmp_path: Path) -> None:
    one, two = sorted(anndata.read_h5ad(counts_file).obs["cell_type"].astype(str).unique())
    out = tmp_path / "de.tsv"
    command = ["de", str(trained), str(counts_file), "--groupby", "cell_type", "--group1", one, "--group2", two]
    assert main([*command, "--n-samples", "100", "--out", str(out), "--quiet"]) == 0
    assert pd.read_csv(out, sep="\t")["group1"].unique().tolist() == [one]


@pytest.mark.parametrize(
    ("flags", "code"), [(["--groupby", "cel_type"], 3), (["--groupby", "cell_type", "--group1", "?"], 2)]
)
def test_de_of_unknown_groups_is_an_error(
    trained: Path, counts_file: Path, tmp_path: Path, flags: list[str], code: int
) -> None:
    assert main(["de", str(trained), str(counts_file), *flags, "--out", str(tmp_path / "x.csv"), "--quiet"]) == code


def test_denoise_streams_shares_that_sum_to_the_library_size(trained: Path, counts_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.h5ad"
    assert main(["denoise", str(trained), str(counts_file), "--library-size", "100", "--out", str(out), "--quiet"]) == 0
    found = anndata.read_h5ad(out)
    assert found.shape == (150, 60)
    np.testing.assert_allclose(found.X.sum(1), 100, rtol=1e-4)


def test_denoise_of_some_genes_and_another_batch(trained: Path, counts_file: Path, tmp_path: Path) -> None:
    names = anndata.read_h5ad(counts_file).var_names[[7, 3]].tolist()
    (tmp_path / "genes.txt").write_text("\n".join(names))
    batch = str(anndata.read_h5ad(counts_file).obs["batch"].iloc[0])
    command = [
        "denoise",
        str(trained),
        str(counts_file),
        "--genes",
        str(tmp_path / "genes.txt"),
        "--transform-batch",
        batch,
    ]
    assert main([*command, "--out", str(tmp_path / "d.h5ad"), "--quiet"]) == 0
    assert anndata.read_h5ad(tmp_path / "d.h5ad").var_names.tolist() == names


def test_log_as_json_is_one_object_a_line(
    counts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(counts_file), "--out", str(tmp_path / "o"), "--max-epochs", "1", "--log-json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {"reading and checking", "choosing genes", "training"} <= {line.get("step") for line in lines}
    assert all({"time", "level", "from", "message"} <= set(line) for line in lines)


def test_quiet_says_nothing_but_the_result(
    counts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(counts_file), "--out", str(tmp_path / "o"), "--max-epochs", "1", "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith("model ")


def test_warnings_are_lines_of_the_log(
    trained: Path, counts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adata = anndata.read_h5ad(counts_file)
    one = (adata.obs["batch"] == adata.obs["batch"].iloc[0]).to_numpy().nonzero()[0]
    few = adata[[i for i in range(adata.n_obs) if i not in one[2:]]]
    few.copy().write_h5ad(tmp_path / "few.h5ad")
    assert main(["latent", str(trained), str(tmp_path / "few.h5ad"), "--out", str(tmp_path / "z.csv")]) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "fewer than 3 cells" in line]
    assert len(warned) == 1
    assert re.match(r"\d\d:\d\d:\d\d warning: --batch-key 'batch' has batches of fewer", warned[0])


def test_resume_takes_the_options_of_the_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", str(trained), "--resume", "--quiet"]) == 0
    assert main(["train", "--out", str(trained), "--resume", "--quiet", "--n-latent", "9"]) == 2
    assert "'n_latent'" in capsys.readouterr().err


def test_demo_data_have_names() -> None:
    assert BUILT_IN["demo:pbmc_two_runs"]().obs["batch"].nunique() == 2
    assert BUILT_IN["demo:simulated"]().obs["batch"].nunique() == 3


# ---------------------------------------------------------------------------------------------------------------- help


def options_shown(text: str) -> set[str]:
    return set(re.findall(r"^\u2502 (?:\* +)?.*?(--[a-z0-9-]+)", text, re.MULTILINE))


def test_the_short_help_has_the_common_options_and_three_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    assert {"--out", "--batch-key", "--labels-key", "--n-top-genes", "--resolution"} <= options_shown(text)
    assert len(options_shown(text)) <= 24 and "--adam-eps" not in text
    assert len(re.findall(r"^  celbo run \S", text, re.MULTILINE)) == 3
    assert "--help-all" in text


def test_the_examples_of_the_help_are_options_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "train"):
        assert main([command, "--help"]) == 0
        examples = re.findall(rf"^ *celbo ({command} .*)$", capsys.readouterr().out, re.MULTILINE)
        for example in examples:
            if "--help" not in example:
                assert main([*example.split(), "--print-config"]) == 0, example
        capsys.readouterr()


def test_help_all_shows_every_option_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help-all"]) == 0
    told = options_shown(capsys.readouterr().out)
    missing = {f"--{name.replace('_', '-')}" for name in options_of(RunConfig)} - told - {"--data"}
    assert missing == set()


@pytest.mark.parametrize("model", sorted(OPTIONS))
def test_the_copy_of_a_models_options_is_its_configuration(model: str) -> None:
    """The command line's classes need no torch: they are a copy, which tools/make_options.py writes."""
    ours, theirs = options_for(model, RunConfig)(), config_for(model, RunConfig)()
    assert flat(ours) == flat(theirs)
    assert [option.hint for option in options_of(type(ours)).values()] == [
        option.hint for option in options_of(type(theirs)).values()
    ]
    assert to_toml(ours) == to_toml(theirs)


def test_the_copy_is_what_the_tool_writes() -> None:
    tool = Path(__file__).parents[2] / "tools" / "make_options.py"
    done = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("compare", "batch-key", "n-top-genes", "zinb"))


# --------------------------------------------------------------------------------------------------------------- speed


def cpu_seconds(*argv: str) -> float:
    """Return the least CPU seconds of five processes."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
        for _ in range(5)
    ]
    return min(float(run.stdout) for run in runs)


FLOOR = "from cyclopts import App; App(name='x', help_format='plaintext', result_action='return_value')(['--help'])"
"""Help of an empty command line: what the library itself takes (0.2 s beside 0.2 for --help, 0.4 for run --help)."""


@pytest.mark.parametrize(
    ("words", "most"), [([], 2.5), (["run"], 4), (["check"], 3), (["latent"], 3), (["de"], 3.5), (["embed"], 3)]
)
def test_help_takes_few_times_what_the_library_takes(words: list[str], most: float) -> None:
    """Seconds mean nothing on a machine that does other work, so the same work is measured beside."""
    help_ = cpu_seconds(sys.executable, "-c", f"from celbo.cli.app import main; main({[*words, '--help']})")
    assert help_ < most * cpu_seconds(sys.executable, "-c", FLOOR)


def test_import_takes_less_than_the_import_of_numpy() -> None:
    assert cpu_seconds(sys.executable, "-c", "import celbo") < cpu_seconds(sys.executable, "-c", "import numpy, json")


HELP = ([], *([name] for name in COMMANDS), ["train", "--model", "dca"])


@pytest.mark.parametrize(
    "what", ["import celbo", *(f"from celbo.cli.app import main; main({[*w, '--help']})" for w in HELP)]
)
def test_torch_is_not_imported(what: str) -> None:
    code = f"{what}\nimport sys\nassert not {{'torch', 'anndata', 'numpy'}} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_the_installed_command_returns_the_exit_code() -> None:
    script = Path(sys.executable).with_name("celbo")
    if not script.exists():
        pytest.skip("celbo is not installed here")
    assert subprocess.run([script, "rnu"], capture_output=True, check=False).returncode == 2


@pytest.fixture(scope="session")
def trained_dca(counts_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of `celbo train --model dca`."""
    out = tmp_path_factory.mktemp("dca") / "out"
    options = ["--model", "dca", "--max-epochs", "2", "--ae-type", "nb", "--quiet"]
    assert main(["train", str(counts_file), "--out", str(out), *options]) == 0
    return out


def test_train_of_another_model_takes_its_options(trained_dca: Path) -> None:
    options = tomllib.loads((trained_dca / "run.toml").read_text())
    assert options["model"] == "dca" and options["network"]["ae_type"] == "nb"
    assert type(celbo.load(trained_dca / "model")).__name__ == "DCA"


def test_another_model_has_its_own_plan_and_presets(capsys: pytest.CaptureFixture[str]) -> None:
    paper = printed(capsys, "train", "x.h5ad", "--model", "dca", "--preset", "paper", "--max-epochs", "7")
    assert paper["ae_type"] == "zinb-conddisp" and paper["optimizer"] == "keras-rmsprop" and paper["max_epochs"] == 7
    old = printed(capsys, "train", "x.h5ad", "--preset", "scvi_tools", "--likelihood", "nb")
    assert old["initialisation"] == "uniform" and old["likelihood"] == "nb" and old["kl_warmup"] == 400


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model", "scvis"], {"optimizer": "adam"}),
        (["--model", "autoimpute"], {}),
        (["--model", "scvis", "--preset", "paper"], {"adam_eps": 1e-3, "clip_norm": 10.0}),
        (["--model", "dca", "--preset", "paper"], {"clip_value": 5.0 * 60}),
        (["--model", "vasc", "--preset", "paper"], {"optimizer": "keras-rmsprop"}),
        (["--model", "autoimpute", "--preset", "paper", "--learning-rate", "0.002"], {"learning_rate": 0.002}),
    ],
)
def test_plans_that_hang_on_the_number_of_cells(
    flags: list[str], expected: dict[str, object], counts_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given = [*flags, "--max-epochs", "2", "--n-top-genes", "0", "--quiet"]
    assert main(["train", str(counts_file), "--out", str(out), *given]) == 0
    trained = celbo.load(out / "model").fitted.plan
    assert trained.max_epochs == 2
    assert {name: getattr(trained, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--model", "dac"], "Did you mean 'dca'?"),
        (["--model", "dca", "--preset", "papr"], "Did you mean 'paper'?"),
        (["--model", "ldvae", "--ae-type", "nb"], "--ae-type"),
    ],
)
def test_unknown_models_presets_and_options_are_named(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "x.h5ad", "--out", "x", *flags]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("model", ["dca", "hpf", "scvis", "vasc", "autoencoder"])
def test_run_of_a_model_without_posterior_of_expression(model: str, counts_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "x"
    options = ["--model", model, "--max-epochs", "3", "--n-top-genes", "0", "--quiet", "--labels-key", "cell_type"]
    assert main(["run", str(counts_file), "--out", str(out), *options]) == 0
    result, page = anndata.read_h5ad(out / "result.h5ad"), (out / "report.html").read_text()
    assert f"X_{model}" in result.obsm and "leiden" in result.obs and "X_umap" in result.obsm
    assert "there are no marker genes" in page and ("Objective" in page or model == "hpf")
    assert len(pd.read_csv(out / "tables" / "markers.csv")) == 0


def test_run_takes_another_model_of_counts(counts_file: Path, tmp_path: Path) -> None:
    options = ["--model", "ldvae", "--max-epochs", "2", "--n-top-genes", "0", "--quiet"]
    assert main(["run", str(counts_file), "--out", str(tmp_path / "x"), *options]) == 0
    assert anndata.read_h5ad(tmp_path / "x" / "result.h5ad").obsm["X_ldvae"].shape == (150, 10)
    assert "LDVAE" in (tmp_path / "x" / "report.html").read_text()


def test_what_another_model_is_asked(trained_dca: Path, counts_file: Path, tmp_path: Path) -> None:
    given = [str(trained_dca), str(counts_file), "--quiet"]
    assert main(["latent", *given, "--out", str(tmp_path / "z.csv")]) == 0
    assert main(["denoise", *given, "--out", str(tmp_path / "d.h5ad")]) == 0
    assert main(["de", *given, "--groupby", "cell_type", "--out", str(tmp_path / "de.csv")]) == 2
    model = celbo.load(trained_dca / "model", anndata.read_h5ad(counts_file))
    expected = model.get_denoised_expression(return_numpy=True)
    np.testing.assert_allclose(anndata.read_h5ad(tmp_path / "d.h5ad").X, expected, rtol=1e-5)


def test_denoise_of_a_saved_factorisation(counts_file: Path, tmp_path: Path) -> None:
    given, out = [str(counts_file), "--quiet"], tmp_path / "hpf"
    assert main(["train", *given, "--model", "hpf", "--n-top-genes", "0", "--max-epochs", "3", "--out", str(out)]) == 0
    assert main(["denoise", str(out), *given, "--out", str(tmp_path / "d.h5ad")]) == 0
    assert anndata.read_h5ad(tmp_path / "d.h5ad").shape == (150, 60)


def test_denoise_fits_a_method_that_is_named(counts_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.h5ad"
    assert main(["denoise", "knn", str(counts_file), "--out", str(out), "--quiet"]) == 0
    counts, found = anndata.read_h5ad(counts_file), anndata.read_h5ad(out)
    np.testing.assert_allclose(found.X.sum(1), np.asarray(counts.X.sum(1)).ravel(), rtol=1e-3)


def test_denoise_scores_methods_on_molecules_not_seen(
    counts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.csv"
    assert main(["denoise", "knn", str(counts_file), "--evaluate", "--out", str(out), "--quiet"]) == 0
    scores = pd.read_csv(out, index_col="method")
    assert scores.loc["knn", "deviance"] < 0.9 * scores.loc["gene mean", "deviance"]
    assert "gene mean" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "code"), [(["nothing", "FILE"], 3), (["knn,dca", "FILE"], 2), (["knn", "FILE", "--out", "x.csv"], 2)]
)
def test_denoise_of_a_method_that_cannot_is_an_error(given: list[str], code: int, counts_file: Path) -> None:
    assert main(["denoise", *(str(counts_file) if word == "FILE" else word for word in given), "--quiet"]) == code


# ------------------------------------------------------------------------------------------------- ended from outside


def signalled(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the process get a signal after its first epoch, and once more while it writes the checkpoint."""
    from celbo.training.checkpoint import CheckpointFolder
    from celbo.training.progress import Progress

    shown, saved = Progress.epoch, CheckpointFolder.save

    def show(self: Progress, row: Mapping[str, float]) -> None:
        if self._done == 1:
            os.kill(os.getpid(), number)
        shown(self, row)

    def save(self: CheckpointFolder, snapshot: Any) -> None:
        os.kill(os.getpid(), number)
        saved(self, snapshot)

    monkeypatch.setattr(Progress, "epoch", show)
    monkeypatch.setattr(CheckpointFolder, "save", save)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_of_clusters_end_a_run_as_ctrl_c_does(
    counts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest, name: str, code: int,
) -> None:  # fmt: skip
    before = signal.signal(getattr(signal, name), signal.SIG_DFL)  # what nohup ignores is ignored
    request.addfinalizer(lambda: signal.signal(getattr(signal, name), before))
    command = ["train", str(counts_file), "--max-epochs", "3", "--quiet", "--out"]
    with monkeypatch.context() as patch:
        signalled(patch, getattr(signal, name))
        assert main([*command, str(tmp_path / "out")]) == code
    assert f"Continue with --resume --out {tmp_path / 'out'}" in capsys.readouterr().err
    assert signal.getsignal(getattr(signal, name)) == signal.SIG_DFL
    assert main([*command, str(tmp_path / "out"), "--resume"]) == 0
    assert main([*command, str(tmp_path / "whole")]) == 0
    weights = [(tmp_path / run / "model" / "weights.safetensors").read_bytes() for run in ("out", "whole")]
    assert weights[0] == weights[1]


def test_a_signal_that_is_ignored_stays_so(counts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        signalled(monkeypatch, signal.SIGHUP)
        assert main(["train", str(counts_file), "--out", str(tmp_path), "--max-epochs", "2", "--quiet"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupt_that_python_had_to_drop_is_raised_again() -> None:
    class Ends:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):
                pass

    with ended_as_by_ctrl_c() as ending:
        with pytest.raises(KeyboardInterrupt):
            ended = Ends()
            del ended
            time.sleep(5)
        assert ending.exit_code == 143


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert main(["run", "x.h5ad", "--print-config"]) == 1
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            output.close()
    assert capsys.readouterr().err == "celbo: the output cannot be read or written: the disk is full.\n"


def test_a_demo_takes_the_place_of_a_demo_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = '[made_by]\ncelbo = "1"\n'
    (tmp_path / "run.toml").write_text(f'data = ["mine.h5ad"]\n{made}')
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "holds a run that is no demo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]


def test_resume_goes_on_with_the_run_that_is_to_replace_another(
    counts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(counts_file), "--out", str(tmp_path), "--quiet", "--n-hidden", "8"]
    assert main([*command, "--max-epochs", "1", "--n-latent", "2"]) == 0
    with monkeypatch.context() as patch:
        signalled(patch, signal.SIGTERM)
        assert main([*command, "--max-epochs", "3", "--n-latent", "5", "--force"]) == 143
    assert celbo.load(tmp_path / "model").config.n_latent == 2
    assert main(["train", "--out", str(tmp_path), "--resume", "--quiet"]) == 0
    assert celbo.load(tmp_path / "model").config.n_latent == 5
    assert not (tmp_path / ".celbo-new").exists()
