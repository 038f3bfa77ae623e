"""Technical classes by symbol, and genes whose signal may have leaked from another cell type."""

import numpy as np
import pytest

from rankshift.screen.study.technical import CLASSES, leaks, technical_class


@pytest.mark.parametrize(
    ("symbols", "known"),
    [
        ("MT-ND1 mt-Co1 MT-RNR2", "mitochondrial"),
        ("RPL13A RPS27L RPS4Y1 RPS4X RPLP0 RPSA Rpl10 RPL36AL RACK1", "ribosomal"),
        ("HBA1 HBB HBG2 Hba-a1 Hbb-bs", "haemoglobin"),
        ("IGHM IGHG1 IGKC IGLC2 IGHV3-23 IGHA1 Ighg2b JCHAIN", "immunoglobulin"),
        ("HSPA1A HSP90AA1 DNAJB1", "heat shock"),
        ("FOS Junb ATF3 EGR1 IER2", "dissociation response"),
        ("MTOR RPS6KA1 RPSAP58 MRPL3 HBEGF HBP1 IGHMBP2 IGF1 IGLON5 IGLL1 HSPG2 FOSL1 MYC TBX5", None),
    ],
)
def test_classes_take_their_genes_and_no_others_of_like_names(symbols, known):
    assert {symbol: technical_class(symbol) for symbol in symbols.split()} == dict.fromkeys(symbols.split(), known)


def test_a_gene_without_a_symbol_is_of_no_class_and_every_class_has_a_source():
    assert technical_class(None) is technical_class("") is None
    assert all(len(source) > 20 for _, source in CLASSES.values())


def test_leaks_come_from_a_type_that_has_much_of_the_gene():
    """Of 1,000 heart cells and 500 red cells, only heart cells were screened; the last gene is of both."""
    types, cells, screened = ["heart", "red"], np.array([1000, 500]), np.array([800, 0])
    detected = np.array([[90, 490], [900, 490], [2, 20], [0, 0], [100, 499]])
    assert leaks(detected, cells, screened, types) == ["red", None, None, None, "red"]
    both = np.array([400, 400])  # red cells are screened too, and most cells with the gene are red
    assert leaks(detected, cells, both, types) == [None] * 5
