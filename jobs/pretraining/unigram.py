"""What gene frequencies alone would give: the losses in nats that a model must beat, and the bias it begins with."""

from collections.abc import Mapping

import numpy as np

from rankshift.screen.genes.vocabulary import Vocabulary


def unigram_entropy(ids: np.ndarray, vocabulary: Vocabulary) -> float:
    """Entropy of the genes' frequencies in nats, -sum p log p: the loss of a model that knows nothing else."""
    count = np.bincount(ids[vocabulary.is_gene[ids]])
    p = count[count > 0] / count.sum()
    return float(-(p * np.log(p)).sum())


def unigram_loss(known: np.ndarray, ids: np.ndarray, vocabulary: Vocabulary) -> float:
    """Mean loss in nats, on the genes of `ids`, of a model that knows only how often each gene is in `known`."""
    return float(-unigram_logs(known, vocabulary)[ids[vocabulary.is_gene[ids]]].mean())


def unigram_logs(ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Log frequency by token [V]; half a sighting is added to each, so what was not seen is rare, not impossible."""
    count = np.bincount(ids, minlength=vocabulary.size) * vocabulary.is_gene + 0.5
    return np.asarray(np.log(count / count.sum()))


def summary(losses: Mapping[str, float]) -> str:
    """The losses in a sentence, each beside what gene frequencies alone give."""
    learnt = losses["held_out_loss"] < losses["held_out_unigram"]
    lacks = ": no better than the frequencies of the genes, it has learnt nothing yet; give more epochs or cells"
    return (
        f"loss {losses['loss']:.3f} nats a gene (unigram entropy {losses['unigram_entropy']:.3f}), "
        f"on held-out cells {losses['held_out_loss']:.3f} (unigram {losses['held_out_unigram']:.3f})"
        f"{'' if learnt or losses['held_out_loss'] != losses['held_out_loss'] else lacks}"
    )
