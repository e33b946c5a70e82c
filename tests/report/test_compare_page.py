"""The page of a comparison: what it says follows from the numbers, gaps have reasons, names are text."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from celbo.errors import CelboError, InputError
from celbo.evaluate.comparison import COLUMNS, Comparison, Picture
from celbo.report.compare import ComparePage, compare_html, write_compare_page
from celbo.report.compare_figures import MAX_POINTS, aligned
from celbo.report.compare_table import reason_of
from celbo.report.compare_verdict import Finding, findings, headline
from celbo.report.data import Categories

HOSTILE = ("<script>alert(1)</script>", "</script><img src=x onerror=alert(1)>", "\u202eevil", "' onmouseover='x\" >")
N = 60
SECTIONS = ["which", "table", "pictures", "stability", "cost", "made"]
NAN = float("nan")
NUMBERS = {
    #       ll, rec, dev, mse, ari, nmi, sil, bsil, ilisi, kept, seed, moved, par, moved, s, MiB
    "pca": (NAN, NAN, NAN, NAN, 0.55, 0.65, 0.6, 0.70, 0.10, 0.20, 1.0, 0.0, 0.3, 0.4, 0.4, 1.0),
    "tsne": (NAN, NAN, NAN, NAN, 0.50, 0.60, 0.6, 0.50, 0.05, 0.30, 0.7, 0.1, 0.5, 0.2, 27.0, 15.0),
    "umap": (NAN, NAN, NAN, NAN, 0.56, 0.60, 0.7, 0.50, 0.05, 0.10, 0.9, 0.1, 0.9, 0.2, 6.0, 4.0),
    "dca": (NAN, -400.0, 0.85, 1.2, 0.40, 0.50, 0.5, 0.50, 0.10, 0.15, 0.3, 0.4, 0.2, 0.5, 60.0, 90.0),
    "scvi": (-660.0, NAN, 0.80, 1.5, 0.60, 0.66, 0.6, 0.90, 0.80, 0.15, 0.2, 0.4, 0.2, 0.4, 180.0, 300.0),
    "ldvae": (-661.0, NAN, 0.82, 1.4, 0.58, 0.68, 0.6, 0.80, 0.60, 0.15, 0.3, 0.2, 0.1, 0.5, 90.0, 250.0),
}  # fmt: skip
FAMILY = {"pca": "classical", "tsne": "classical", "umap": "classical", "dca": "autoencoder"}


class Page(HTMLParser):
    """Collects elements, attributes and text, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def sections(self) -> list[str | None]:
        return [a["id"] for t, a in self.elements if t == "section"]


def comparison(methods: tuple[str, ...] = tuple(NUMBERS), n: int = N, **more: object) -> Comparison:
    """Return what a comparison might have found."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame([NUMBERS[m] for m in methods], index=list(methods), columns=[c.name for c in COLUMNS])

    def pictures(method: str) -> tuple[Picture, ...]:
        points = rng.normal(size=(n, 2)).astype(np.float32)
        own = method in ("tsne", "umap")
        first = Picture(points, "its own dimensions" if own else "UMAP of 10 dimensions")
        return (first, Picture(points[:, ::-1] * 3, first.how, "another seed")) if own else (first,)

    given = {
        "table": table,
        "titles": {m: {"pca": "PCA", "tsne": "t-SNE", "scvi": "scVI"}.get(m, m.upper()) for m in methods},
        "families": {m: FAMILY.get(m, "variational") for m in methods},
        "sentences": {m: f"What {m} assumes." for m in methods},
        "reasons": {("pca", "mcv_deviance"): "It does not denoise.", ("tsne", "log_likelihood"): "It draws cells."},
        "pictures": {m: pictures(m) for m in methods},
        "baselines": {"gene mean": {"mcv_deviance": 1.0, "mcv_mse": 1.1}, "kNN smoothing": {"mcv_deviance": 0.84}},
    }
    return Comparison(**{**given, **more})  # type: ignore[arg-type]


def page_of(found: Comparison, n: int = N, **more: object) -> ComparePage:
    given = {
        "labels": Categories("cell_type", np.arange(n) % 3 - (np.arange(n) == 1), ("B", "T", "NK")),
        "batch": Categories("batch", np.arange(n) // 7 % 2, ("one", "two")),
        "source": "data/cells.h5ad",
        "command": "celbo compare data/cells.h5ad",
        "versions": {"celbo": "0.1.0"},
    }
    sizes = {"n_cells": n, "n_genes": 90, "n_genes_used": 80, "n_test": 6, "n_samples": 100}
    return ComparePage(comparison=found, **{**sizes, **given, **more})  # type: ignore[arg-type]


def without(found: Comparison, *columns: str) -> Comparison:
    return dataclasses.replace(found, table=found.table.drop(columns=list(columns)))


def about(found: Comparison, key: str) -> Finding:
    return next(finding for finding in findings(found) if finding.key == key)


def changed(method: str, **numbers: float) -> Comparison:
    """Return the comparison with other numbers for one method."""
    found = comparison()
    table = found.table.copy()
    for column, value in numbers.items():
        table.loc[method, column] = value
    return dataclasses.replace(found, table=table)


@pytest.fixture(scope="module")
def page() -> str:
    failures = {"VASC": "TrainingError: the loss became infinite."}
    return compare_html(page_of(comparison(failures=failures)))


@pytest.fixture(scope="module")
def hostile() -> str:
    names = HOSTILE[:3]
    found = comparison()
    return compare_html(
        page_of(
            dataclasses.replace(
                found,
                titles=dict.fromkeys(NUMBERS, HOSTILE[0]),
                families=dict.fromkeys(NUMBERS, HOSTILE[1]),
                sentences=dict.fromkeys(NUMBERS, HOSTILE[3]),
                reasons={("pca", "mcv_deviance"): HOSTILE[3], ("dca", "log_likelihood"): HOSTILE[1]},
                pictures={m: tuple(Picture(p.points, HOSTILE[0], HOSTILE[3]) for p in ps)
                          for m, ps in found.pictures.items()},
                failures={HOSTILE[0]: HOSTILE[1]},
                baselines={HOSTILE[1]: {"mcv_deviance": 0.1}},
            ),
            labels=Categories(HOSTILE[3], np.arange(N) % 3, names),
            batch=Categories(HOSTILE[1], np.arange(N) % 3, names),
            source=HOSTILE[1],
            command=HOSTILE[1],
            versions={HOSTILE[0]: HOSTILE[1]},
        )
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- the file


def test_all_sections_are_there_in_order(page: str) -> None:
    assert Page(page).sections() == SECTIONS


@pytest.mark.parametrize("which", ["page", "hostile"])
def test_nothing_is_fetched_and_one_script_of_known_hash_runs(which: str, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue(which)
    parsed = Page(made)
    for tag, attributes in parsed.elements:
        for key in ("src", "href", "xlink:href", "action", "srcset", "data"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, key)
    assert not re.search(r"@import|url\((?!#)", made)
    assert [a for t, a in parsed.elements if t == "script"] == [{}]
    assert not [a for _, a in parsed.elements if any(key.startswith("on") for key in a)]
    assert not [t for t, _ in parsed.elements if t in {"img", "iframe", "object", "embed", "form", "link", "base"}]
    policy = next(a["content"] for _, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy") or ""
    script = re.search(r"<script>(.*?)</script>", made, re.S)
    assert script is not None
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()}'" in policy


def test_hostile_names_are_shown_as_text(hostile: str) -> None:
    words = Page(hostile).words
    assert HOSTILE[0] in words
    assert HOSTILE[3] in words
    assert r"\u202eevil" in words
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", hostile)


@pytest.mark.parametrize("which", ["page", "hostile"])
def test_ids_are_unique(which: str, request: pytest.FixtureRequest) -> None:
    ids = [a["id"] for _, a in Page(request.getfixturevalue(which)).elements if a.get("id")]
    assert len(ids) == len(set(ids))


def test_the_same_comparison_gives_the_same_page() -> None:
    found = comparison(("pca", "scvi"))
    assert compare_html(page_of(found)) == compare_html(page_of(found))


def test_pictures_of_another_length_are_a_named_error() -> None:
    with pytest.raises(InputError, match=r"'pca, picture 1' has the wrong length: 60 entries for 61 cells"):
        page_of(comparison(), n=61)


def test_writing_into_a_missing_folder_is_a_named_error(tmp_path) -> None:
    with pytest.raises(CelboError, match="folder"):
        write_compare_page(page_of(comparison(("pca",))), tmp_path / "no" / "compare.html")


def test_many_cells_are_drawn_in_part_and_the_file_stays_small(tmp_path) -> None:
    n = MAX_POINTS + 5000
    path = write_compare_page(page_of(comparison(("tsne", "scvi"), n=n), n=n), tmp_path / "compare.html")
    assert "A random 20,000 of the 25,000 cells are drawn." in path.read_text()
    assert path.stat().st_size < 6e6 * 6 / 60  # six pictures here; all methods together have about sixty


# ------------------------------------------------------------------------------------------------------------ the table


def test_each_number_stands_in_its_row_and_the_best_is_marked(page: str) -> None:
    row = re.search(r'<tr><th scope="row"[^>]*><bdi>scVI</bdi>.*?</tr>', page, re.S)
    assert row is not None
    assert 'data-value="-660.0"><i aria-label="best">●</i>−660.0<' in row[0]
    assert 'data-value="0.8"><i aria-label="best">●</i>0.800<' in row[0]
    assert re.search(r'data-value="1.5">1.500<', row[0])  # the error on logs is shown and not ranked


def test_the_reconstruction_and_the_error_on_logs_stand_apart(page: str) -> None:
    reconstruction = re.search(r'<td class="([^"]*)" data-value="-400.0">', page)
    assert reconstruction is not None
    assert set(reconstruction[1].split()) == {"number", "first", "apart"}
    assert "Not evidence" in Page(page).words
    assert "judge by the deviance" in Page(page).words


def test_every_gap_has_a_reason_with_a_letter(page: str) -> None:
    gaps = re.findall(r'<td class="[^"]*none[^"]*" title="([^"]*)">–<sup>([a-z]+)</sup>', page)
    notes = dict(re.findall(r"<li><sup>([a-z]+)</sup> (.*?)</li>", page))
    assert len(gaps) == int(comparison().table.isna().to_numpy().sum())
    assert {letter: reason for reason, letter in gaps} == notes
    assert "It does not denoise." in notes.values()


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("mcv_mse", "It does not denoise."),
        ("reconstruction", "Only for autoencoders whose output is a distribution of counts, but that have no "
         "likelihood of a cell."),
        ("log_likelihood", "It was not computed."),
    ],
)  # fmt: skip
def test_one_reason_explains_the_columns_near_it(column: str, reason: str) -> None:
    assert reason_of(comparison(), "pca", column) == reason


def test_a_reason_of_a_whole_step_explains_its_columns() -> None:
    found = comparison(reasons={("scvi", "clusters"): "ValueError: too few cells"})
    assert reason_of(found, "scvi", "nmi") == reason_of(found, "scvi", "ilisi") == "ValueError: too few cells"


def test_ties_are_all_best_and_a_number_alone_is_not() -> None:
    tied = compare_html(page_of(dataclasses.replace(changed("ldvae", ari=0.60), pictures={})))
    assert len(re.findall(r'data-value="0.6"><i aria-label="best">', tied)) >= 2
    alone = compare_html(page_of(dataclasses.replace(changed("ldvae", log_likelihood=NAN), pictures={})))
    assert '<i aria-label="best">●</i>−660.0' not in alone


def test_infinite_numbers_are_shown_and_never_best() -> None:
    made = compare_html(page_of(dataclasses.replace(changed("ldvae", log_likelihood=-np.inf), pictures={})))
    assert 'data-value="-inf">−∞<' in made
    assert about(changed("ldvae", log_likelihood=np.inf), "explain").winner == ""  # of the finite ones, one is left


def test_failures_are_named_with_their_cause(page: str) -> None:
    assert "VASC : TrainingError: the loss became infinite." in Page(page).words
    assert "1 could not be run" in Page(page).words


def test_headings_say_what_a_column_is_and_which_end_is_good(page: str) -> None:
    tips = [a.get("title") or "" for t, a in Page(page).elements if t == "button" and "data-column" in a]
    assert len(tips) == len(COLUMNS)
    assert all(column.meaning[:40] in tip for column, tip in zip(COLUMNS, tips, strict=True))
    assert tips[0].endswith("(more is better)")
    assert tips[-1].endswith("(less is better)")


# ------------------------------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("key", "winner", "close"),
    [
        ("explain", "scVI", ("scvi", "ldvae")),  # 1.0 of 660 nats is within 0.2%
        ("types", "scVI", ("scvi", "ldvae", "pca")),  # means 0.63, 0.63, 0.60
        ("mix", "scVI", ("scvi",)),
        ("denoise", "scVI", ("scvi",)),
        ("stay", "t-SNE", ("tsne",)),  # UMAP stays more, but keeps a third of the neighbours
        ("cost", "PCA", ("pca",)),
    ],
)
def test_the_best_and_those_close_to_it(key: str, winner: str, close: tuple[str, ...]) -> None:
    found = about(comparison(), key)
    assert found.winner == winner
    assert found.methods == close


def test_the_headline_counts_purposes() -> None:
    found = comparison()
    assert headline(found, findings(found)) == (
        "scVI is best, or close to the best, for 4 of the 5 purposes that could be judged. No method leads everywhere: "
        "choose by what you need."
    )


def test_the_headline_says_when_each_purpose_has_another_best() -> None:
    found = comparison()
    made = [dataclasses.replace(f, methods=(name,)) for f, name in zip(findings(found), NUMBERS, strict=True)]
    assert headline(found, made) == (
        "No method is best for more than one of the 5 purposes that could be judged: choose by what you need."
    )


def test_a_baseline_that_does_as_well_wins() -> None:
    found = about(comparison(baselines={"kNN smoothing": {"mcv_deviance": 0.79}}), "denoise")
    assert (found.level, found.winner, found.methods) == ("poor", "kNN smoothing", ())
    assert "no method beats it: the best, scVI, reaches 0.800" in found.sentence


def test_a_baseline_that_is_near_is_a_caution() -> None:
    found = about(comparison(baselines={"kNN smoothing": {"mcv_deviance": 0.804}}), "denoise")
    assert (found.level, found.caution) == ("fair", "But kNN smoothing, which needs no model, is close.")


def test_the_error_on_logs_decides_nothing() -> None:
    assert findings(without(comparison(), "mcv_mse")) == findings(comparison())


def test_a_heap_that_mixes_all_cells_does_not_win() -> None:
    heap = changed("dca", batch_silhouette=1.0, ilisi=1.0, ari=0.0, nmi=0.0)
    assert about(heap, "mix").winner == "scVI"


def test_mixing_that_costs_types_says_so() -> None:
    found = about(changed("scvi", ari=0.5, nmi=0.56), "mix")
    assert found.winner == "scVI"
    assert found.caution == (
        "Some agreement with the labels is lost: the mean of ARI and NMI is 0.53, against 0.63 with LDVAE."
    )


def test_types_that_come_with_batches_apart_are_a_caution() -> None:
    found = about(changed("pca", ari=0.9, nmi=0.9), "types")
    assert (found.winner, found.level, found.caution) == (
        "PCA",
        "fair",
        "But it keeps the batches apart: see the next card.",
    )


@pytest.mark.parametrize(
    ("key", "said", "where", "where_not"),
    [
        ("types", "Even this agreement is poor", {"ari": 0.05, "nmi": 0.1}, {"ari": 0.6, "nmi": 0.66}),
        ("mix", "Even here batches stay apart", {"batch_silhouette": 0.3, "ilisi": 0.02}, {"ilisi": 0.8}),
        ("stay", "Even here most neighbours of a cell change", {"seed_overlap": 0.2, "parameter_overlap": 0.1}, {}),
        ("types", "But it keeps the batches apart", {"batch_silhouette": 0.3, "ilisi": 0.02}, {"ilisi": 0.8}),
        ("stay", "It is the only map here", {}, None),
    ],
)
def test_a_sentence_stands_where_it_is_true_and_only_there(
    key: str, said: str, where: dict[str, float], where_not: dict[str, float] | None
) -> None:
    def told(numbers: dict[str, float], kept: list[str]) -> str:
        found = comparison()
        table = found.table.loc[kept].assign(**numbers)
        finding = about(dataclasses.replace(found, table=table), key)
        return f"{finding.sentence} {finding.caution}"

    alone = ["scvi", "tsne"]
    assert said in told(where, alone)
    assert said not in (told(where_not, alone) if where_not is not None else told({}, [*alone, "umap"]))


def test_without_labels_mixing_is_judged_with_a_caution() -> None:
    found = without(comparison(), "ari", "nmi", "label_silhouette")
    assert about(found, "types").level == "none"
    assert about(found, "mix").level == "fair"
    assert "Without labels" in about(found, "mix").caution


def test_without_batches_mixing_is_open() -> None:
    found = about(without(comparison(), "batch_silhouette", "ilisi"), "mix")
    assert (found.level, found.winner) == ("none", "")
    assert "--batch-key" in found.sentence


def test_a_single_likelihood_is_not_called_best() -> None:
    found = about(changed("ldvae", log_likelihood=NAN), "explain")
    assert (found.level, found.winner, found.methods) == ("none", "", ())
    assert found.sentence == "scVI is the only method here that has a likelihood of counts."


# ----------------------------------------------------------------------------------------------------------------- gaps

GAPS = {
    "no labels": ("ari", "nmi", "label_silhouette"),
    "no batches": ("batch_silhouette", "ilisi"),
    "neither": ("ari", "nmi", "label_silhouette", "batch_silhouette", "ilisi"),
    "no repeats": ("seed_overlap", "seed_procrustes", "parameter_overlap", "parameter_procrustes"),
    "no denoising": ("mcv_deviance", "mcv_mse"),
    "no memory": ("memory",),
    "no likelihood": ("log_likelihood", "reconstruction"),
}


@pytest.mark.parametrize("gap", GAPS)
def test_a_page_with_gaps_is_whole(gap: str) -> None:
    found = without(comparison(), *GAPS[gap])
    if gap not in ("neither", "no repeats"):
        found = dataclasses.replace(found, pictures={})
    more: dict[str, object] = {}
    if gap in ("no labels", "neither"):
        more["labels"] = None
    if gap in ("no batches", "neither"):
        more["batch"] = Categories("batch", np.zeros(N, np.int64), ("all",))
    if gap == "no repeats":
        found = dataclasses.replace(found, pictures={m: p[:1] for m, p in found.pictures.items()})
    parsed = Page(compare_html(page_of(found, **more)))
    assert parsed.sections() == SECTIONS
    told = {
        "no labels": "No column judges cell types",
        "no batches": "No column judges mixing",
        "neither": "Neither labels nor batches are known",
        "no repeats": "Each method was fitted once, so its stability is not known.",
    }
    assert told.get(gap, "") in parsed.words
    assert not re.search(r"\bnan\b", parsed.words, re.IGNORECASE)


def test_nothing_but_failures_is_a_page_that_says_so() -> None:
    empty = Comparison(pd.DataFrame(), {}, {}, {}, {}, {}, failures={"PCA": "it broke"})
    words = Page(compare_html(page_of(empty, labels=None, batch=None))).words
    for told in ("No method could be run.", "There is no number to show.", "No picture was made.", "it broke"):
        assert told in words


def test_one_method_alone_is_compared_with_nothing() -> None:
    words = Page(compare_html(page_of(comparison(("scvi",))))).words
    assert "One method was run: there is nothing to compare it with." in words


# ------------------------------------------------------------------------------------------------------------- pictures


def test_pictures_are_laid_on_the_first_by_turning_scaling_and_moving() -> None:
    rng = np.random.default_rng(1)
    first = rng.normal(size=(40, 2)) * [3, 1] + 5
    turn = np.array([[0.6, -0.8], [-0.8, -0.6]])  # a turn with a mirror
    assert aligned(7 * first @ turn - 2, first) == pytest.approx(first)


def test_a_picture_without_shape_stays_as_it_is() -> None:
    flat = np.ones((5, 2))
    assert aligned(flat, np.eye(5)[:, :2]).tolist() == flat.tolist()


def test_each_method_has_its_picture_and_maps_their_variants(page: str) -> None:
    labels = [a["aria-label"] for t, a in Page(page).elements if t == "svg" and a.get("class") == "map"]
    assert len(labels) == 6 + 6 + 2 * 2  # by label, by batch, and two maps drawn twice
    assert "map of cells, t-SNE, another seed" in labels
    assert "map of cells, scVI, by batch" in labels
