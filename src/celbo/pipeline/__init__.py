"""The main job, from a file of counts to a report."""

from __future__ import annotations

from celbo.pipeline.config import GraphConfig, RunConfig, SelectionConfig, TrainRunConfig
from celbo.pipeline.main import RunResult, run, train

__all__ = ["GraphConfig", "RunConfig", "RunResult", "SelectionConfig", "TrainRunConfig", "run", "train"]
