"""Our columns: what each one means and its unit. They go into the Parquet metadata, and docs/stats.md lists them."""

from collections.abc import Sequence

import pyarrow as pa

MEASURES = ("shift", "similarity")

# name: (unit, meaning). <m> is shift or similarity, <s> an alternative state.
COLUMNS: dict[str, tuple[str, str]] = {
    "kind": ("", "kind of the perturbation"),
    "gene_ids": ("", "perturbed genes, Ensembl ids joined by + in the user's order"),
    "symbols": ("", "their names"),
    "cells": ("cells", "cells in which the perturbation was made, one value each"),
    "enough_cells": ("yes or no", "at least --min-cells; without, nothing is tested and there is no rank"),
    "hit": ("yes or no", "enough cells, FDR below 0.05 (balanced_fdr with --by), above the noise floor, an effect of its own"),
    "below_noise_floor": ("yes or no", "the mean effect is smaller than the p99 of the run's noise floor"),
    "<m>_mean": ("cosine", "mean over cells"),
    "<m>_sd": ("cosine", "standard deviation over cells, of the sample"),
    "<m>_low": ("cosine", "lower end of the 95 % bootstrap interval of the mean"),
    "<m>_high": ("cosine", "upper end of it"),
    "rank": ("rank", "of the mean among genes with enough cells, 1 for the strongest (highest shift, lowest similarity)"),
    "rank_low": ("rank", "lower end of the 95 % bootstrap interval of the rank"),
    "rank_high": ("rank", "upper end of it"),
    "superiority": ("probability", "that a value of this gene is above one of the others, ties counted half"),
    "p_value": ("probability", "rank-sum test against all values of all other genes (mode null: of the null run's)"),
    "centred_p_value": ("probability", "the same test, with the superiority of the typical gene in place of 0.5"),
    "fdr": ("probability", "Benjamini-Hochberg of centred_p_value over genes with enough cells"),
    "shift_mean_<s>": ("cosine", "mean shift towards the alternative state"),
    "p_value_<s>": ("probability", "p_value of that shift"),
    "fdr_<s>": ("probability", "fdr of that shift, centred likewise"),
    "similarity_mean": ("cosine", "mean over cells of the cosine before and after"),
    "matched_median": ("cosine", "median of the means of the genes nearest in rank and detection"),
    "matched_z": ("robust sd", "mean minus matched_median, in 1.4826 median absolute deviations of the matched"),
    "matched_p_value": ("probability", "empirical, two-sided, against the matched genes"),
    "matched_p_floor": ("probability", "the smallest matched_p_value there can be"),
    "adjusted_mean": ("cosine", "mean over cells after the cell and its trend over rank were taken out"),
    "adjusted_p_value": ("probability", "rank test of the adjusted values within cells (null: between runs), centred"),
    "adjusted_fdr": ("probability", "Benjamini-Hochberg of adjusted_p_value"),
    "groups": ("groups", "values of --by in which the perturbation was made"),
    "null_groups": ("groups", "the same in the null run"),
    "balanced_mean": ("cosine", "mean over groups of their means over cells (mode null: minus the null run's)"),
    "balanced_difference": ("cosine", "mean over groups of the difference to the same cells' other genes (null: too)"),
    "balanced_p_value": ("probability", "t test over groups of that difference against the typical gene's"),
    "balanced_fdr": ("probability", "Benjamini-Hochberg of balanced_p_value"),
    "impact": ("yes or no", "the mean belongs to the mixture component of lower similarity"),
    "impact_probability": ("probability", "that it does, given the fit"),
    "impact_percent": ("percent", "of the single values that belong to that component"),
    "null_cells": ("cells", "values of the gene in the null run"),
    "null_similarity_mean": ("cosine", "mean similarity in the null run"),
    "difference_mean": ("cosine", "similarity_mean minus null_similarity_mean: negative is the stronger effect here"),
    "difference_low": ("cosine", "lower end of the 95 % bootstrap interval of the difference, cells of both runs resampled"),
    "difference_high": ("cosine", "upper end of it"),
    "baseline_rank": ("rank", "mean place of the gene in the cells where it was perturbed, 1 the top"),
    "baseline_detection": ("fraction", "of the run's cells whose list has the gene"),
    "baseline_state_correlation": ("correlation", "of the gene's rank score with being a goal cell, over the token table"),
    "baseline_coexpression": ("correlation", "of its rank score with that of the genes that differ between the states"),
    "baseline_random": ("fraction", "uniform random number: what a ranking without knowledge gives"),
}  # fmt: skip


def described(table: pa.Table, others: Sequence[str] = ()) -> pa.Table:
    """The table in the order of COLUMNS, with `unit` and `meaning` in the metadata of every column."""
    named: dict[str, tuple[str, str]] = {}
    for name, words in COLUMNS.items():
        for part in others if "<s>" in name else MEASURES:
            named.setdefault(name.replace("<m>", part).replace("<s>", part), words)
    unknown = set(table.column_names) - set(named)
    if unknown:
        raise ValueError(f"columns {sorted(unknown)} are not described")
    fields = []
    for name, (unit, meaning) in named.items():
        if name in table.column_names:
            fields.append(table.schema.field(name).with_metadata({"unit": unit, "meaning": meaning}))
    return table.select([f.name for f in fields]).cast(pa.schema(fields))
