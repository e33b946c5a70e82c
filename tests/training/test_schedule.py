"""Schedules against their closed forms."""

from __future__ import annotations

import math

import pytest

from celbo.training.schedule import has_plateaued, kl_weight, one_cycle, warmup_epochs


def test_one_cycle_rises_on_a_line_from_a_twenty_fifth_to_the_peak() -> None:
    assert one_cycle(0, 1000, 0.15) == pytest.approx(0.04)
    assert one_cycle(75, 1000, 0.15) == pytest.approx((0.04 + 1) / 2)
    assert one_cycle(150, 1000, 0.15) == 1.0


def test_one_cycle_falls_on_a_cosine_to_zero() -> None:
    assert one_cycle(575, 1000, 0.15) == pytest.approx(0.5)
    assert one_cycle(362, 1000, 0.15) == pytest.approx(0.5 * (1 + math.cos(math.pi * 212 / 850)))
    assert one_cycle(1000, 1000, 0.15) == 0.0


def test_one_cycle_without_warmup_starts_at_the_peak() -> None:
    assert one_cycle(0, 10, 0.0) == 1.0


def test_one_cycle_of_a_single_step_is_positive() -> None:
    assert one_cycle(0, 1, 0.15) > 0


@pytest.mark.parametrize("n_steps", [10, 1_000, 1_000_000])
def test_kl_weight_by_share_reaches_one_at_that_share_whatever_the_number_of_steps(n_steps: int) -> None:
    assert kl_weight(0, 0, n_steps, 0.1) == 0.0
    assert kl_weight(n_steps // 20, 0, n_steps, 0.1) == pytest.approx((n_steps // 20) / (0.1 * n_steps))
    assert kl_weight(n_steps // 10, 0, n_steps, 0.1) == 1.0
    assert kl_weight(n_steps - 1, 0, n_steps, 0.1) == 1.0


def test_kl_weight_by_epochs_is_epoch_over_warmup_as_in_scvi_tools() -> None:
    assert [kl_weight(999, epoch, 10**6, 400) for epoch in (0, 1, 399, 400, 500)] == [0, 1 / 400, 399 / 400, 1, 1]


@pytest.mark.parametrize("warmup", [0, 0.0])
def test_no_warmup_is_full_weight_from_the_first_step(warmup: float) -> None:
    assert kl_weight(0, 0, 100, warmup) == 1.0


def test_warmup_epochs_are_rounded_up_and_never_more_than_all() -> None:
    assert warmup_epochs(0.1, 45) == 5
    assert warmup_epochs(400, 20) == 20


def test_plateau_is_patience_epochs_without_a_rise() -> None:
    assert not has_plateaued([-5, -4, -4.5, -4.2], patience=3)
    assert has_plateaued([-5, -4, -4.5, -4.2, -4.0], patience=3)
    assert not has_plateaued([-5, -4, -4.5, -4.2, -3.9], patience=3)


def test_a_rise_below_min_delta_is_no_rise() -> None:
    assert has_plateaued([-5, -4.95, -4.9], patience=2, min_delta=0.2)
    assert not has_plateaued([-5, -4.95, -4.9], patience=2, min_delta=0.05 - 1e-9)


def test_slow_but_steady_rises_add_up_against_min_delta() -> None:
    assert not has_plateaued([-5 + 0.06 * i for i in range(50)], patience=3, min_delta=0.1)


def test_epochs_of_the_warmup_do_not_count() -> None:
    falling = [-1.0, -2.0, -3.0, -4.0, -5.0]
    assert has_plateaued(falling, patience=3)
    assert not has_plateaued(falling, patience=3, after=3)
