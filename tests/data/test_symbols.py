"""Genes are called by their symbols wherever a file has them, and no two alike."""

import numpy as np
import pandas as pd
import pytest

from celbo.data.symbols import display_names, other_names, symbol_column, with_symbols

IDS = ["ENSG00000000001", "ENSG00000000002", "ENSG00000000003.4"]


@pytest.mark.parametrize(
    "column",
    ["gene_symbols", "gene_name", "feature_name", "symbol", "Symbol", "gene_short_name", "SYMBOL", "Gene Symbol"],
)
def test_symbols_are_found_under_their_usual_names(column):
    var = pd.DataFrame({"n": 1, column: ["CD3D", "LYZ", "MS4A1"]}, index=IDS)
    assert symbol_column(var) == column
    assert display_names(var).tolist() == ["CD3D", "LYZ", "MS4A1"]


def test_a_symbol_of_two_genes_is_told_apart_and_a_missing_one_is_the_identifier():
    var = pd.DataFrame({"gene_name": pd.Categorical(["TBCE", "TBCE", None])}, index=IDS)
    assert display_names(var).tolist() == [f"TBCE ({IDS[0]})", f"TBCE ({IDS[1]})", IDS[2]]


@pytest.mark.parametrize("missing", ["", " ", "nan", "NA", None, np.nan, b""])
def test_what_is_no_symbol_is_the_identifier(missing):
    var = pd.DataFrame({"symbol": np.array(["CD3D", missing, b"LYZ"], object)}, index=IDS)
    assert display_names(var).tolist() == ["CD3D", IDS[1], "LYZ"]


def test_names_made_unique_stay_as_they_are():
    var = pd.DataFrame({"gene_symbols": ["TBCE", "TBCE", "LYZ"]}, index=["TBCE", "TBCE-1", "LYZ"])
    assert display_names(var).tolist() == ["TBCE", "TBCE-1", "LYZ"]


def test_a_column_of_identifiers_is_no_column_of_symbols():
    var = pd.DataFrame({"gene_name": IDS, "gene_ids": IDS, "symbol": IDS}, index=["CD3D", "LYZ", "MS4A1"])
    assert symbol_column(var) is None
    assert display_names(var).tolist() == ["CD3D", "LYZ", "MS4A1"]


def test_the_second_best_column_is_taken_where_the_first_holds_identifiers():
    var = pd.DataFrame({"gene_name": IDS, "feature_name": ["CD3D", "LYZ", "MS4A1"]}, index=IDS)
    assert symbol_column(var) == "feature_name"


def test_no_two_genes_are_shown_alike():
    var = pd.DataFrame({"symbol": ["LYZ", "LYZ", None, "a"]}, index=["a", "b", "LYZ", "c"])
    assert len(set(display_names(var))) == 4


def test_a_table_of_genes_gets_their_symbols_as_its_first_column():
    var = pd.DataFrame({"symbol": ["CD3D", None, "MS4A1"]}, index=IDS)
    table = pd.DataFrame({"lfc": [1.0, 2.0]}, index=[IDS[2], IDS[1]])
    found = with_symbols(table, var)
    assert found.columns.tolist() == ["symbol", "lfc"]
    assert found["symbol"].tolist() == ["MS4A1", IDS[1]]
    assert with_symbols(table, var.drop(columns="symbol")) is table
    assert other_names(var) == {IDS[0]: "CD3D", IDS[2]: "MS4A1"}
