"""The main job, from a file of counts to a report. Its options need no torch; the job is imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celbo.pipeline.config import GraphConfig, RunConfig, SelectionConfig, TrainRunConfig

if TYPE_CHECKING:
    from celbo.pipeline.main import RunResult, run, train

__all__ = ["GraphConfig", "RunConfig", "RunResult", "SelectionConfig", "TrainRunConfig", "run", "train"]


def __getattr__(name: str) -> object:
    if name not in ("RunResult", "run", "train"):
        raise AttributeError(f"module 'celbo.pipeline' has no attribute {name!r}")
    from celbo.pipeline import main

    return getattr(main, name)
