"""Mitochondrial and ribosomal genes, by what files call them."""

from __future__ import annotations

import pytest

from celbo.data.families import mitochondrial, ribosomal


@pytest.mark.parametrize(
    "name",
    ["MT-CO1", "mt-Nd1", "Mt-nd1", "MT.ND1", "mt:CoI", "GRCh38_MT-CO1", "mm10___mt-Nd1", "MT-ND1 (ENSG00000198888)",
     "ENSG00000198888", "ENSG00000198727.2", "ENSMUSG00000064370"],
)  # fmt: skip
def test_mitochondrial_names(name):
    assert mitochondrial([name]).tolist() == [True]


@pytest.mark.parametrize("name", ["MTOR", "MT1X", "MT2A", "MT-", "AMT-1", "ENSG00000198804x", "ENSG00000141510", ""])
def test_names_that_are_not_mitochondrial(name):
    assert mitochondrial([name]).tolist() == [False]


@pytest.mark.parametrize(
    "name",
    ["RPS6", "RPS4X", "RPS27A", "RPL13A", "RPL36AL", "RPSA", "RPLP0", "Rps27a", "Rplp1", "RpL3", "rpl5a", "hg19_RPL3"],
)
def test_ribosomal_names(name):
    assert ribosomal([name]).tolist() == [True]


@pytest.mark.parametrize(
    "name", ["RPS6KA1", "Rps6kb2", "RPS19BP1", "RPL34-AS1", "GRPEL1", "RPUSD1", "RPN1", "MRPL3", "RPE"]
)
def test_names_that_are_not_ribosomal(name):
    assert ribosomal([name]).tolist() == [False]


def test_a_mask_has_one_entry_a_gene():
    assert mitochondrial([]).shape == (0,)
    assert mitochondrial(["A", "MT-CO1", "B"]).tolist() == [False, True, False]
