"""Are the calls of differential expression honest, and do they find what is there? Beside scvi-tools and two tests.

    .venv/bin/python benchmarks/differential.py planted samples nulls truth seeds [--methods celbo wilcoxon] [--again]
    .venv/bin/python benchmarks/differential.py summary

- planted: simulated effects between groups of 30 to 3,000 cells; false discovery proportion, power, AUPRC, intervals.
- samples: the same between groups of simulated donors with effects of their own, and nulls between donors.
- nulls: random halves of one kind of cell, by cell and by batch, of real sets, where every call is false.
- truth: interferon genes in Kang et al. 2018, and cell lines judged by another platform (Tian et al. 2019).
- seeds: do the same seed and other seeds give the same table?

scvi-tools 1.4.2 is asked in both modes with batch correction, trained as it comes; its vanilla mode has no rate of
false discoveries, so that a gene is called where |Bayes factor| > 3, the rule of its paper. The tests are scanpy's, on
log-normalised counts, adjusted by Benjamini and Hochberg. Every answer is a line of results/differential/PART.jsonl as
soon as it is there, and is not asked again except with --again; `summary` sums them up in results/differential.json.
Parts may run side by side.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import json
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import machine
import numpy as np
from differential_scores import TARGETS, Evidence, null_summary, scored, summed_up
from differential_sets import DONORS, INTERFERON, LEADING, NULLS, PLANTED, Question, kang, mixology, pooled_lfc
from differential_sides import METHODS, OF_SAMPLES, OURS, PEER, SCRATCH, Sides, tested
from sklearn.metrics import average_precision_score

import celbo

RESULT = machine.RESULTS / "differential.json"
FOLDER = machine.RESULTS / "differential"
BLOCK = 10
"""Splits of a null that are one line of the file."""
PEER_PLANTED = (
    *("150 v 340, shallow", "150 v 340, deep", "even genes, shallow", "even genes, deep", "1000 v 1000, deep"),
    *("150 v 340 among 3,000, even genes, shallow", "150 v 340 among 3,000, even genes, deep"),
    *("30 v 30 among 1,000, deep", "nothing differs, deep", "types uneven over batches, deep"),
)
"""Settings that the peer is asked for, which is slow."""


class Rows:
    """Answers of one part, one line of JSON each; a later line of the same key takes the place of an earlier one."""

    def __init__(self, part: str, *, again: bool = False) -> None:
        self.path = FOLDER / f"{part}.jsonl"
        self.again, self.commit = again, machine.commit()
        self._rows = self._read()
        self._asked: set[tuple[Any, ...]] = set()

    def _read(self) -> dict[tuple[Any, ...], dict[str, Any]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return {self.key(row): row for row in map(json.loads, lines)}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from writing the file."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        SCRATCH.mkdir(parents=True, exist_ok=True)
        with (SCRATCH / f"{self.path.stem}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @staticmethod
    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        """Return what a row is the answer to."""
        return row["set"], row["seed"], row["method"]

    def lacks(self, methods: Sequence[str], name: str, seed: Any) -> list[str]:
        """Return the methods that have not answered."""
        keys = {method: (name, seed, method) for method in methods}
        return [m for m, key in keys.items() if key not in self._rows or (self.again and key not in self._asked)]

    def add(self, **row: Any) -> None:
        """Keep an answer, at once, with the commit that gave it."""
        row["commit"] = self.commit
        self._rows[self.key(row)] = row
        self._asked.add(self.key(row))
        with self._alone(), self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def compact(self) -> None:
        """Write each key once, in order."""
        with self._alone():
            self._rows = self._read()
            ordered = sorted(self._rows.values(), key=lambda row: tuple(map(str, self.key(row))))
            if ordered:
                part = self.path.with_suffix(".part")
                part.write_text("".join(json.dumps(row) + "\n" for row in ordered))
                part.replace(self.path)

    def by(self, *names: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
        """Return the rows grouped by some of their fields."""
        out: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
        for row in self._rows.values():
            out[tuple(row[name] for name in names)].append(row)
        return dict(sorted(out.items(), key=lambda item: tuple(map(str, item[0]))))


# -- planted effects -------------------------------------------------------------------------------------------------


def planted(args: argparse.Namespace) -> None:
    """Ask about planted effects between groups of cells."""
    rows = Rows("planted", again=args.again)
    seeds = range(args.seeds if args.seeds is not None else 10)
    for seed, (name, setting) in itertools.product(seeds, PLANTED.items()):
        asked = [m for m in args.methods if m not in OF_SAMPLES]
        if seed >= args.peer_seeds or name not in PEER_PLANTED:
            asked = [m for m in asked if m not in PEER]
        if args.only in name:
            _score(rows, asked, (name, seed), partial(setting.make, seed), args)


def samples(args: argparse.Namespace) -> None:
    """Ask about planted effects and nulls between groups of donors."""
    rows = Rows("samples", again=args.again)
    seeds = range(args.seeds if args.seeds is not None else 30)
    for seed, (name, setting) in itertools.product(seeds, DONORS.items()):
        asked = [m for m in args.methods if m not in PEER or seed < args.peer_seeds]
        if args.only in name:
            _score(rows, asked, (name, seed), partial(setting.make, seed), args)


def _score(
    rows: Rows, methods: Sequence[str], of: tuple[str, int], make: Callable[[], Question], args: argparse.Namespace
) -> None:
    """Score the methods that lack on the data set of a setting and seed."""
    name, seed = of
    lacking = rows.lacks(methods, name, seed)
    if not lacking:
        return
    question = make()
    assert question.truth is not None
    with Sides(question.adata, f"{name}_{seed}", seed=seed, peer=args.peer) as sides:
        for method in lacking:
            told = scored(sides.ask(method, question, seed=seed), question.truth)
            took = {"seconds": machine.significant(sides.seconds[method], 3)}
            rows.add(set=name, seed=seed, method=method, **told, **took)
            brief = {k: told.get(k) for k in ("calls@0.05", "fdp@0.05", "power@0.05", "auprc", "coverage")}
            print(f"{name} {seed} {method}: {brief} {took['seconds']} s", flush=True)


# -- nulls -----------------------------------------------------------------------------------------------------------


def nulls(args: argparse.Namespace) -> None:
    """Ask about halves of one kind of cell of real sets."""
    rows = Rows("nulls", again=args.again)
    for name, null in NULLS.items():
        if args.only not in name:
            continue
        asked = [m for m in args.methods if null.by_sample or m not in OF_SAMPLES]
        blocks = range(args.splits // BLOCK)
        lacking = {
            block: rows.lacks([m for m in asked if m not in PEER or block * BLOCK < args.peer_splits], name, block)
            for block in blocks
        }
        if not any(lacking.values()):
            continue
        adata, among = null.load(args.data)
        with Sides(adata, f"null {name}", peer=args.peer) as sides:
            for block, method in ((b, m) for b in blocks for m in lacking[b]):
                counts: dict[float, list[int]] = {target: [] for target in TARGETS}
                began = time.perf_counter()
                for number in range(block * BLOCK, (block + 1) * BLOCK):
                    evidence = sides.ask(method, null.halve(adata, among, number), seed=number)
                    for target, called in evidence.calls.items():
                        counts[target].append(int(called.sum()))
                seconds = machine.significant((time.perf_counter() - began) / BLOCK, 3)
                calls = {f"calls@{target}": found for target, found in counts.items()}
                rows.add(set=name, seed=block, method=method, cells=len(among), **calls, seconds=seconds)
                print(f"{name} {block} {method}: {counts[0.05]} {seconds} s each", flush=True)


# -- real truth ------------------------------------------------------------------------------------------------------


def truth(args: argparse.Namespace) -> None:
    """Ask about real sets whose answer is known."""
    rows = Rows("truth", again=args.again)
    asked = [m for m in args.methods if m not in OF_SAMPLES]
    if args.only in "kang":
        adata, questions = kang(args.data)
        with Sides(adata, "kang without batches", peer=args.peer) as sides:
            for name, question in questions.items():
                for method in rows.lacks(asked, "kang", name):
                    told = interferon(sides.ask(method, question), question)
                    rows.add(set="kang", seed=name, method=method, **told)
                    print(f"kang {name} {method}: {told}", flush=True)
    if args.only in "mixology":
        adata, pairs = mixology(args.data)
        judge = (adata.obs["protocol"].astype(str) == "dropseq").to_numpy()
        place = np.cumsum(~judge) - 1
        trained_on = adata[~judge].copy()
        with Sides(trained_on, "mixology celseq2", peer=args.peer) as sides:
            for name, lines in pairs.items():
                answer, rest = tested(lines.other_platform, "wilcoxon"), pooled_lfc(lines.rest)
                asked_of = Question(trained_on, place[lines.question.first], place[lines.question.second])
                for method in rows.lacks(asked, "mixology", name):
                    told = against_others(sides.ask(method, asked_of), answer, rest)
                    rows.add(set="mixology", seed=name, method=method, **told)
                    print(f"mixology {name} {method}: {told}", flush=True)


def interferon(evidence: Evidence, question: Question) -> dict[str, Any]:
    """Return where the interferon genes are among all genes ordered by evidence, the strongest is rank 1."""
    names = question.adata.var_names
    rank = np.empty(len(names), np.int64)
    rank[np.argsort(-evidence.score, kind="stable")] = np.arange(1, len(names) + 1)
    known, leading = (names.isin(genes) for genes in (INTERFERON, LEADING))
    called = evidence.calls[0.05]
    return {
        "cells": [len(question.first), len(question.second)],
        "known": int(known.sum()),
        "known_called": int((called & known).sum()),
        "known_in_top_30": int((rank[known] <= 30).sum()),
        "known_median_rank": float(np.median(rank[known])),
        "leading": int(leading.sum()),
        "leading_called": int((called & leading).sum()),
        "leading_median_rank": float(np.median(rank[leading])),
        "calls@0.05": int(called.sum()),
        "first": [str(name) for name in names[np.argsort(rank)[:10]]],
    }


def against_others(evidence: Evidence, answer: Evidence, rest: Any) -> dict[str, Any]:
    """Score calls of a few cells by what all cells of another platform say clearly, and by the other cells' direction.

    A call where nothing differs has the other direction in half of the cases, so that twice the share of calls with the
    other direction estimates the share of false ones, from above where the other cells are not many.
    """
    assert answer.lfc is not None
    changed = answer.calls[0.01] & (np.abs(answer.lfc) > 1)
    same = ~answer.calls[0.1] & (np.abs(answer.lfc) < 0.25)
    clear, called = changed | same, evidence.calls[0.05]
    out = {"changed": int(changed.sum()), "same": int(same.sum()), "calls@0.05": int(called.sum())}
    shares = {
        "auprc": float(average_precision_score(changed[clear], evidence.score[clear])),
        "found": float(called[changed].mean()),
        "called_of_same": float(called[same].mean()),
    }
    if evidence.lfc is not None and called.any():
        sign = np.sign(evidence.lfc)
        shares["false_by_direction"] = 2 * float(np.mean(sign[called] != np.sign(rest[called])))
        shares["direction"] = float(np.mean((sign == np.sign(answer.lfc))[called & changed]))
    return out | {name: machine.significant(value) for name, value in shares.items()}


# -- seeds -----------------------------------------------------------------------------------------------------------


def seeds(args: argparse.Namespace) -> None:
    """Ask the same of our model with other seeds, of sampling and of training."""
    rows = Rows("seeds", again=args.again)
    for name, question in _repeatable(args.data):
        for method in rows.lacks([m for m in args.methods if m in OURS and m not in OF_SAMPLES], name, 0):
            answers = []
            for training in range(3):
                with Sides(question.adata, f"seeds {name} {training}", seed=training) as sides:
                    again = [sides.ask(method, question, seed=s) for s in (0, 0, 1, 2)]
                answers.append(again)
            first = answers[0][0]
            assert first.lfc is not None
            told = {
                "same_seed_same_table": _same(first, answers[0][1]),
                "other_seeds": _agreement([answers[0][0], *answers[0][2:]]),
                "other_trainings": _agreement([of_training[0] for of_training in answers]),
            }
            rows.add(set=name, seed=0, method=method, **told)
            print(f"{name} {method}: {told}", flush=True)


def _repeatable(data: Path) -> Iterator[tuple[str, Question]]:
    for name in ("150 v 340, shallow", "150 v 340, deep"):
        yield name, PLANTED[name].make(0)
    from differential_sets import real

    adata = real("pbmc3k", data)
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    for one, other in (("CD8 T", "NK"), ("Naive CD4 T", "Memory CD4 T")):
        yield (
            f"pbmc3k, {one} v {other}",
            Question(adata, np.flatnonzero(labels == one), np.flatnonzero(labels == other)),
        )


def _same(one: Evidence, other: Evidence) -> bool:
    same = [np.array_equal(one.score, other.score), np.array_equal(one.lfc, other.lfc)]  # type: ignore[arg-type]
    return all(same) and all(np.array_equal(one.calls[t], other.calls[t]) for t in TARGETS)


def _agreement(answers: Sequence[Evidence]) -> dict[str, float]:
    """Return the least agreement of two answers: fold changes, and calls that both make among those either makes."""
    from scipy.stats import spearmanr

    lfc, jaccard, share = [], [], []
    for one, other in itertools.combinations(answers, 2):
        lfc.append(float(spearmanr(one.lfc, other.lfc).statistic))
        a, b = one.calls[0.05], other.calls[0.05]
        jaccard.append(float((a & b).sum() / max((a | b).sum(), 1)) if (a | b).any() else 1.0)
        share.append(float(2 * (a & b).sum() / (a.sum() + b.sum())) if (a | b).any() else 1.0)
    told = {"spearman_lfc": min(lfc), "jaccard_of_calls": min(jaccard), "share_of_calls_in_both": min(share)}
    return {name: machine.significant(value) for name, value in told.items()} | {
        "calls": float(np.mean([a.calls[0.05].sum() for a in answers]))
    }


# -- what it sums up to ----------------------------------------------------------------------------------------------


def summary(args: argparse.Namespace) -> None:
    """Write the JSON of all parts and print what is over its target."""
    result: dict[str, Any] = {"what": __doc__.splitlines()[0], "about": machine.about(1)}
    for part in ("planted", "samples"):
        rows = Rows(part)
        rows.compact()
        sets: dict[str, Any] = defaultdict(dict)
        for (name, method), of in rows.by("set", "method").items():
            sets[name][method] = summed_up(of)
        result[part] = dict(sets)
    rows = Rows("nulls")
    rows.compact()
    halves: dict[str, Any] = defaultdict(dict)
    for (name, method), of in rows.by("set", "method").items():
        halves[name][method] = {f"{t}": null_summary([n for row in of for n in row[f"calls@{t}"]]) for t in TARGETS} | {
            "seconds": float(np.mean([row["seconds"] for row in of]))
        }
    result["nulls"] = dict(halves)
    for part in ("truth", "seeds"):
        rows = Rows(part)
        rows.compact()
        nested: dict[str, Any] = defaultdict(lambda: defaultdict(dict))
        for (name, method, of_what), of in rows.by("set", "method", "seed").items():
            nested[name][method][str(of_what)] = {
                k: v for k, v in of[0].items() if k not in ("set", "seed", "method", "commit")
            }
        result[part] = nested
    machine.write_json(RESULT, result)
    for line in report(result):
        print(line)


def report(result: dict[str, Any]) -> Iterator[str]:
    """Yield the table of what matters, and marks where a mean is over its target."""
    for part in ("planted", "samples"):
        for name, methods in result[part].items():
            for method in (m for m in METHODS if m in methods):
                told = methods[method]
                rates = " ".join(f"{told[f'fdp@{t}']:.3f}{'' if told[f'fdp@{t} held'] else '!'}" for t in TARGETS)
                shown = [f"{k} {told[k]:.3f}" for k in ("power@0.05", "auprc", "coverage", "lfc_rmse") if k in told]
                yield f"{name} | {method} | n {told['data_sets']} | FDP {rates} | {' '.join(shown)}"
    for name, methods in result["nulls"].items():
        for method in (m for m in METHODS if m in methods):
            told = methods[method]["0.05"]
            calls = f"{told['share_with_calls']:.2f} of {told['splits']} with calls, mean {told['mean_calls']}"
            yield f"{name} | {method} | {calls}, most {told['most_calls']}"
    for name, methods in result["truth"].items():
        shown_of = ("known_median_rank", "known_called", "known_in_top_30", "leading_median_rank", "leading_called",
                    "calls@0.05", "auprc", "found", "called_of_same", "false_by_direction", "direction")  # fmt: skip
        for method in (m for m in METHODS if m in methods):
            of = list(methods[method].values())
            means = {k: machine.significant(float(np.mean([o[k] for o in of])), 3) for k in shown_of if k in of[0]}
            yield f"{name} | {method} | {len(of)} | {means}"
    for name, methods in result["seeds"].items():
        for method, told in methods.items():
            yield f"seeds {name} | {method} | {told['0']}"


def main() -> None:
    """Run what the command line asks for."""
    parts = {part.__name__: part for part in (planted, samples, nulls, truth, seeds, summary)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=list(parts))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--only", default="", help="part of the name of a setting")
    parser.add_argument("--seeds", type=int, default=None, help="data sets of each setting; default 10, of samples 30")
    parser.add_argument("--peer-seeds", type=int, default=3, help="the same for scvi-tools")
    parser.add_argument("--splits", type=int, default=100, help="of each null")
    parser.add_argument("--peer-splits", type=int, default=20, help="the same for scvi-tools")
    parser.add_argument("--again", action="store_true", help="also what has been answered")
    parser.add_argument("--peer", type=Path, default=machine.PEER)
    beside = machine.ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CELBO_TEST_DATA", beside)))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    celbo.SCVI  # noqa: B018 (imports what warns)
    for part in args.parts:
        parts[part](args)


if __name__ == "__main__":
    main()
