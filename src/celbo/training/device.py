"""Where training runs and what it draws from: device, threads, seeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from celbo.errors import OptionError

__all__ = ["check_seed", "derived_seed", "pick_device", "torch_threads"]


def pick_device(device: str | torch.device) -> torch.device:
    """Return the device of that name; "auto" is the first of cuda, mps and cpu that this machine has.

    Raises
    ------
    OptionError
        The name is unknown, or the machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
    try:
        picked = torch.device(device)
    except (RuntimeError, TypeError) as error:
        fix = "Known: 'auto', 'cpu', 'cuda', 'cuda:0', 'mps'."
        raise OptionError("does not exist", where=f"device {str(device)!r}", fix=fix) from error
    there = {"cpu": True, "cuda": (picked.index or 0) < torch.cuda.device_count(), "mps": _has_mps()}
    if not there.get(picked.type, False):
        raise OptionError("is not on this machine", where=f"device {str(device)!r}", fix="Use 'auto' or 'cpu'.")
    return picked


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


@contextmanager
def torch_threads(n_threads: int | None) -> Iterator[int]:
    """Give torch that many threads inside the block (None: leave them), and yield the number in use."""
    before = torch.get_num_threads()
    if n_threads is not None:
        torch.set_num_threads(n_threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def check_seed(seed: object) -> None:
    """Raise `OptionError` unless a seed is a whole number of at least 0 that fits into 63 bits, as torch's seeds do."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise OptionError("is not a whole number of at least 0", where=f"seed={seed!r}")


def derived_seed(seed: int, stream: int, *, epoch: int = 0) -> int:
    """Return the 63-bit seed of one stream of random numbers in one epoch, a pure function of its arguments."""
    return int(np.random.SeedSequence([seed, stream, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
