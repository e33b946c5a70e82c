"""A folder keeps what it has until what takes its place is finished, and for ever what celbo did not write."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import celbo
from celbo.errors import CelboError, OptionError, WriteError
from celbo.locks import LOCK, Holder, alone
from celbo.pipeline import RunConfig, SelectionConfig, train
from celbo.pipeline.ask import Asked
from celbo.pipeline.config import TrainRunConfig, read_toml
from celbo.pipeline.folder import RunFolder
from celbo.pipeline.place import COMPARISON, RUN, Contents, Found, settle
from celbo.training.plan import TrainConfig

CONFIG = TrainRunConfig(
    seed=1, selection=SelectionConfig(n_top_genes=40), train=TrainConfig(max_epochs=2, n_threads=1, checkpoint_every=1)
)  # fmt: skip
MADE = '[made_by]\ncelbo = "1"\n'
RUN_FILES = {
    "run.toml": MADE,
    "result.h5ad": "result",
    "report.html": "report",
    "model/model.json": "model",
    "model/weights.safetensors": "weights",
    "tables/cells.csv": "cells",
}
PARTS = {"parts/compare.json": "{}", "parts/pca.json": "1", "parts/pca.npz": "2", "compare.html": "page"}
MINE = {"notes.txt": "a", "model/why.md": "b", "tables/mine.csv": "c", "figures/1.png": "d", "parts/mine/x": "e"}


def cells(n: int = 60) -> Any:
    return celbo.datasets.simulate(n_cells=n, n_genes=50, n_batches=1, n_cell_types=2, seed=0)


def write(folder: Path, files: dict[str, str], mark: str = "") -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + mark)


def read(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def killed_at(call: int, work: Callable[[], None]) -> bool:
    """Do the work in a fork that dies before its so-manieth change of a folder; False where it came to its end."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9
    seen = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **options: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen > call:
                os._exit(9)
            return real(*args, **options)

        return change

    try:
        for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "link"):
            setattr(os, name, counted(getattr(os, name)))
        work()
    finally:
        os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("contents", "files"), [(RUN, RUN_FILES), (COMPARISON, PARTS)], ids=["run", "comparison"])
def test_an_exchange_that_is_killed_anywhere_is_finished_by_the_next_command(
    tmp_path: Path, contents: Contents, files: dict[str, str]
) -> None:
    most = list(files)[:-1]  # the new one lacks a file of the old one
    for call in range(200):
        home = tmp_path / str(call)
        write(home, files)
        write(home, MINE)
        write(home / ".celbo-new", {name: files[name] for name in most}, "\n# new")
        killed = killed_at(call, lambda home=home: contents.exchange(home))  # type: ignore[misc]
        settle(home)
        if (home / ".celbo-new").exists():  # killed before it began: both are whole
            assert read(home / ".celbo-new") == {name: files[name] + "\n# new" for name in most}
            assert {name: read(home)[name] for name in files} == files
            contents.exchange(home)
        expected = MINE | {name: files[name] + "\n# new" for name in most}
        assert read(home) == expected, f"killed at change {call}"
        if not killed:
            break
    assert not killed and call > 15


def test_links_are_not_followed_and_stay(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    write(home, RUN_FILES)
    write(elsewhere, {"thesis.txt": "years", "cells.csv": "mine"})
    (home / "tables" / "cells.csv").unlink()
    (home / "tables").rmdir()
    (home / "tables").symlink_to(elsewhere)
    write(home / ".celbo-new", RUN_FILES, "\n# new")
    RUN.exchange(home)
    assert read(elsewhere) == {"thesis.txt": "years", "cells.csv": "mine"}
    assert (home / "tables.kept1").readlink() == elsewhere
    assert (home / "tables" / "cells.csv").read_text() == "cells\n# new"


def test_the_list_of_own_files_is_what_a_run_writes(tmp_path: Path) -> None:
    config = RunConfig(seed=1, selection=SelectionConfig(n_top_genes=40), train=TrainConfig(max_epochs=1, n_threads=1))
    out = celbo.run(cells(150), config=config, out=tmp_path, labels_key="cell_type", progress=False).folder
    written = list(read_names(out))
    assert [name for name in written if not RUN.owns(name)] == []
    assert {name.split("/")[0] for name in written} <= set(RUN.tops)
    assert "tables/resolutions.csv" in written


def read_names(folder: Path) -> list[str]:
    return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]


# ---------------------------------------------------------------------------------------------------------- --force


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "out"
    train(cells(), config=CONFIG, out=out, progress=False)
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    import shutil

    folder = Path(shutil.copytree(finished, tmp_path / "out"))
    write(folder, {"notes.txt": "mine", "tables/mine.csv": "mine", "model/mine.md": "mine"})
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_with_force_takes_the_place_of_the_old_one_and_leaves_what_is_not_its_own(out: Path) -> None:
    old = bytes_of(out)
    train(cells(), config=replace(CONFIG, seed=2), out=out, force=True, progress=False)
    new = bytes_of(out)
    assert new.keys() == old.keys()
    same = {name for name in new if new[name] == old[name]}
    assert {"notes.txt", "tables/mine.csv", "model/mine.md"} <= same
    assert not same & {"model/weights.safetensors", "model/model.json", "run.toml", "tables/history.csv"}
    assert read_toml(out / "run.toml")["seed"] == 2
    celbo.load(out / "model", cells())


@pytest.mark.parametrize("when", ["reading", "training", "saving", "finishing"])
def test_a_run_with_force_that_fails_leaves_the_old_one_as_it_was(
    out: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from celbo.models.scvi import SCVI
    from celbo.pipeline import main

    def fail(*_: object, **__: object) -> None:
        raise WriteError("cannot be written", where=when)

    places: dict[str, tuple[Any, str]] = {
        "reading": (main, "trained"),
        "training": (SCVI, "train"),
        "saving": (SCVI, "save"),
        "finishing": (main.results, "write_versions"),
    }
    old = bytes_of(out)
    with monkeypatch.context() as patch:
        patch.setattr(*places[when], fail)
        with pytest.raises(CelboError):
            train(cells(), config=replace(CONFIG, seed=2), out=out, force=True, progress=False)
    new = bytes_of(out)
    assert {name: new[name] for name in old} == old
    begun = {name for name in new if name not in old}
    assert bool(begun) == (when in ("saving", "finishing")) and LOCK not in begun
    assert celbo.load(out / "model", cells()).seed == 1
    train(cells(), config=replace(CONFIG, seed=2), out=out, resume=bool(begun), force=not begun, progress=False)
    assert bytes_of(out).keys() == old.keys() and read_toml(out / "run.toml")["seed"] == 2


def test_an_interrupted_run_with_force_is_resumed_beside_the_old_one(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from celbo.training.progress import Progress

    whole = out.with_name("whole")
    train(cells(), config=replace(CONFIG, seed=2), out=whole, progress=False)
    old = bytes_of(out)
    shown = Progress.epoch

    def interrupt(self: Progress, row: Any) -> None:
        if self._done == 1:
            raise KeyboardInterrupt
        shown(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "epoch", interrupt)
        with pytest.raises(KeyboardInterrupt, match="Continue with --resume --out"):
            train(cells(), config=replace(CONFIG, seed=2), out=out, force=True, progress=False)
    new = bytes_of(out)
    assert {name: new[name] for name in old} == old
    with pytest.raises(OptionError, match="one that was to replace it and is not finished"):
        train(cells(), config=CONFIG, out=out, progress=False)
    with pytest.raises(OptionError, match="was started with other options"):
        train(cells(), config=CONFIG, out=out, resume=True, progress=False)
    train(cells(), config=replace(CONFIG, seed=2), out=out, resume=True, progress=False)
    weights = "model/weights.safetensors"
    assert (out / weights).read_bytes() == (whole / weights).read_bytes()
    assert bytes_of(out).keys() == old.keys()


def test_what_is_asked_of_a_run_whose_exchange_was_cut_off_finishes_it(out: Path, finished: Path) -> None:
    import shutil

    shutil.copytree(finished, out / ".celbo-done")
    (out / ".celbo-done" / "run.toml").write_text((finished / "run.toml").read_text() + "\n# new\n")
    cells().write_h5ad(out / "cells.h5ad")
    Asked.open(out, [str(out / "cells.h5ad")])
    assert (out / "run.toml").read_text().endswith("# new\n") and not (out / ".celbo-done").exists()


@pytest.mark.parametrize("left", ["", LOCK, "tables/", ".run.0123456789ab.tmp.toml", ".celbo-new/", "model/"])
def test_what_a_kill_leaves_before_anything_is_there_is_no_hindrance(tmp_path: Path, left: str) -> None:
    if left.endswith("/"):
        (tmp_path / left).mkdir()
    elif left:
        (tmp_path / left).write_text("")
    assert Found.of(tmp_path, RUN, resume=False, force=False).path == tmp_path
    assert Found.of(tmp_path, RUN, resume=True, force=False).goes_on is False


def test_a_folder_that_another_process_writes_to_is_refused_before_data_are_read(out: Path) -> None:
    for options in ({}, {"resume": True}, {"force": True}):
        with alone(out), pytest.raises(WriteError, match="is being written to"):
            train("no.h5ad", config=CONFIG, out=out, progress=False, **options)  # type: ignore[arg-type]
        with alone(out), pytest.raises(WriteError, match="is being written to"):
            celbo.compare("no.h5ad", methods=["pca"], out=out, **options)  # type: ignore[arg-type]


def test_the_lock_is_there_while_a_run_is_written_and_gone_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from celbo.pipeline import main

    seen: list[int] = []
    real = main.results.write_table

    def look(*args: Any, **options: Any) -> Any:
        seen.append(json.loads((tmp_path / LOCK).read_text())["pid"])
        return real(*args, **options)

    monkeypatch.setattr(main.results, "write_table", look)
    train(cells(), config=CONFIG, out=tmp_path, progress=False)
    assert seen == [os.getpid()] and not (tmp_path / LOCK).exists()


def test_a_training_holds_the_folder_of_its_checkpoints(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(json.dumps(vars(replace(Holder.here(), host="node7"))))
    model = celbo.SCVI(cells(), n_hidden=8)
    with pytest.raises(WriteError, match="another machine"):
        model.train(max_epochs=1, checkpoint_dir=tmp_path, progress=False)
    (tmp_path / LOCK).unlink()
    model.train(max_epochs=1, checkpoint_dir=tmp_path, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["epoch-000001"]


def test_checkpoints_go_and_what_is_beside_them_stays(tmp_path: Path) -> None:
    from celbo.training.checkpoint import remove_checkpoints

    plan = TrainConfig(max_epochs=3, checkpoint_every=1)
    celbo.SCVI(cells(), n_hidden=8).train(plan, checkpoint_dir=tmp_path, progress=False)
    write(tmp_path, {"epoch-000003/mine.txt": "a", "notes.txt": "b"})
    remove_checkpoints(tmp_path)
    assert read(tmp_path) == {"epoch-000003/mine.txt": "a", "notes.txt": "b"}


def test_a_run_that_nobody_holds_is_opened_without_a_trace(out: Path) -> None:
    before = bytes_of(out)
    RunFolder.open(replace(CONFIG, out=str(out)), force=True)
    assert bytes_of(out) == before
