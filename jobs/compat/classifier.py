"""`Classifier` with the published methods and files: cells or genes are classified by a fine-tuned encoder.

Data are prepared as .dataset folders, models are plain checkpoints. What cannot be honoured is refused before any training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankshift.compat.inputs import PathLike, deviates, logger, matching, output_file, token_file, workplace
from rankshift.compat.training import judgement
from rankshift.compat.training.classes import NO_LIMIT, Classification
from rankshift.compat.training.learning import LABEL, judged, learnt, prepared, save, stored_model
from rankshift.jobs.finetuning.labels.labels import CellLabels
from rankshift.jobs.finetuning.labels.splits import Fold
from rankshift.jobs.finetuning.models import Classifier as Model
from rankshift.jobs.verbs.export import write_pickle
from rankshift.screen.cells.cells import Cells
from rankshift.screen.errors import InputError
from rankshift.screen.genes.token_space import VocabularyOnly


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What `train_all_data` made: the model on the CPU, and its folder."""

    model: Model
    directory: Path


@dataclass
class Classifier(Classification):
    """Classification of cells or genes with the published options (docs/migrating.md has a table of them).

    Without effect here: forward_batch_size, nproc, ngpu, no_eval. Macro F1 and curves are computed as published.

    >>> Classifier(classifier="cell", cell_state_dict={"state_key": "disease", "states": "all"})
    Traceback (most recent call last):
    rankshift.screen.errors.InputError: token_dictionary_file is None, and the published dictionaries are not shipped ...
    """

    def prepare_data(
        self,
        input_data_file: PathLike,
        output_directory: PathLike,
        output_prefix: str,
        split_id_dict: Mapping[str, Any] | None = None,
        test_size: float | None = None,
        attr_to_split: str | None = None,
        attr_to_balance: Sequence[str] | None = None,
        max_trials: int = 100,
        pval_threshold: float = 0.1,
    ) -> None:
        """Write {prefix}_id_class_dict.pkl, {id: class}, and the labelled cells, in which `label` holds the ids.

        Cells: {prefix}_labeled_train.dataset and _labeled_test.dataset, or _labeled.dataset without a test share. Genes:
        {prefix}_labeled.dataset, the cells that hold one of the genes. Ids follow the sorted names of the classes.
        """
        self._vocabulary = self._check()
        space = VocabularyOnly(
            path=token_file(self.token_dictionary_file), vocabulary=self._vocabulary, input_size=NO_LIMIT
        )
        cells = matching(Cells.read(Path(input_data_file), space), self._filters())
        taken = LABEL if self._cells else "labels"
        if taken in cells.obs.column_names:
            raise InputError(f"the cells have a column {taken!r}, which is reserved for class ids: rename it")

        def file(end: str) -> Path:
            return output_file(output_directory, output_prefix, end)

        if not self._cells:
            if test_size or split_id_dict or attr_to_split:
                raise InputError("test_size, split_id_dict and attr_to_split cut cells, a gene classifier cuts genes")
            assert self.gene_class_dict is not None
            names = sorted(map(str, self.gene_class_dict))
            holding = self._holding(cells)
            holding.write(file("_labeled.dataset"), self._vocabulary)
            write_pickle(dict(enumerate(names)), file("_id_class_dict.pkl"))
            logger.info("%d cells hold one of the genes", len(holding))
            return
        cells, names = self._labelled(cells)
        share = self._sizes["test"] if test_size is None else test_size
        if not 0 <= share < 1:
            raise InputError(f"test_size is {share}: give a share from 0 to below 1")
        table = file("_train_test_balance_df.csv")
        given = (split_id_dict, attr_to_split, attr_to_balance, max_trials, pval_threshold)
        cut = self._cut(cells, share, "test", *given, table)
        if cut is None:
            cells.write(file("_labeled.dataset"), self._vocabulary)
        else:
            for side, rows in zip(("train", "test"), cut, strict=True):
                cells.take(rows).write(file(f"_labeled_{side}.dataset"), self._vocabulary)
                logger.info("%d cells in %s", len(rows), side)
        write_pickle(dict(enumerate(names)), file("_id_class_dict.pkl"))

    def validate(
        self,
        model_directory: PathLike,
        prepared_input_data_file: PathLike,
        id_class_dict_file: PathLike,
        output_directory: PathLike,
        output_prefix: str,
        split_id_dict: Mapping[str, Any] | None = None,
        attr_to_split: str | None = None,
        attr_to_balance: Sequence[str] | None = None,
        gene_balance: bool = False,
        max_trials: int = 100,
        pval_threshold: float = 0.1,
        save_eval_output: bool = True,
        predict_eval: bool = True,
        predict_trainer: bool = False,
        n_hyperopt_trials: int = 0,
        save_gene_split_datasets: bool = True,
        debug_gene_split_datasets: bool = False,
    ) -> dict[str, Any]:
        """Train and judge one cut, or five, and return conf_matrix, macro_f1, acc and all_roc_metrics.

        Models go to {yymmdd}_geneformer_{cell|gene}Classifier_{prefix}/ksplit{k} of the output directory, with
        {prefix}_pred_dict.pkl beside each (predict_eval); {prefix}_eval_metrics_dict.pkl lies above (save_eval_output).
        """
        self._vocabulary = self._check()
        if self.num_crossval_splits == 0:
            raise InputError("num_crossval_splits is 0: give 1 or 5 to validate, or call train_all_data")
        if n_hyperopt_trials:
            raise InputError(
                f"n_hyperopt_trials is {n_hyperopt_trials}: leave it out; `rankshift finetune --tune {n_hyperopt_trials}` "
                "searches settings, which then go into training_args"
            )
        if gene_balance:
            raise InputError("gene_balance=True is not here: leave it out, or drop genes of the larger class yourself")
        if debug_gene_split_datasets:
            deviates("debug_gene_split_datasets has no effect: genes are cut in memory, no data sets are written")
        names = judgement.class_names(id_class_dict_file)
        with self._at(model_directory, output_directory, output_prefix) as (folder, bundle, out):
            cells, labels, options = self._read(prepared_input_data_file, bundle, names)
            if isinstance(labels, CellLabels):
                given = (split_id_dict, attr_to_split, attr_to_balance, max_trials, pval_threshold)
                cuts = self._cell_cuts(cells, *given, output_file(out, output_prefix, "_train_valid_balance_df.csv"))
            else:
                if split_id_dict or attr_to_split:
                    raise InputError(
                        "split_id_dict and attr_to_split cut cells, a gene classifier cuts genes: leave them out"
                    )
                cuts = self._gene_cuts(labels)
            if self._cells:
                judgement.told_epochs()
            found = []
            for k, (train, judge) in enumerate(cuts, 1):
                fold = Fold(name=f"ksplit{k}", train=np.sort(train), judged=np.sort(judge))
                job = prepared(bundle, cells, labels, options, fold, folder)
                model = learnt(job)
                found.append(judged(job, model))
                save(model, out / fold.name, {"task": options.task, "pool": job.pool})
                if predict_eval:
                    write_pickle(judgement.predictions(found[-1]), out / fold.name / f"{output_prefix}_pred_dict.pkl")
                if predict_trainer:
                    deviates(
                        "predict_trainer: predictions.pkl is a dictionary, the published one an object of transformers"
                    )
                    write_pickle(judgement.predictions(found[-1]), out / fold.name / "predictions.pkl")
            report = judgement.metrics(found, names, several=True)
            if save_eval_output:
                write_pickle(report, output_file(out, output_prefix, "_eval_metrics_dict.pkl"))
        return report

    def train_all_data(
        self,
        model_directory: PathLike,
        prepared_input_data_file: PathLike,
        id_class_dict_file: PathLike,
        output_directory: PathLike,
        output_prefix: str,
        save_eval_output: bool = True,
        gene_balance: bool = False,
    ) -> Trained:
        """Train on all prepared cells and write the model to {yymmdd}_geneformer_{cell|gene}Classifier_{prefix}."""
        self._vocabulary = self._check()
        if gene_balance:
            raise InputError("gene_balance=True is not here: leave it out, or drop genes of the larger class yourself")
        names = judgement.class_names(id_class_dict_file)
        with self._at(model_directory, output_directory, output_prefix) as (folder, bundle, out):
            cells, labels, options = self._read(prepared_input_data_file, bundle, names)
            everything = np.arange(len(labels.values))
            fold = Fold(name="all", train=everything, judged=everything[:0])
            job = prepared(bundle, cells, labels, options, fold, folder)
            model = learnt(job)
            save(model, out, {"task": options.task, "pool": job.pool})
        return Trained(model=model, directory=out)

    def evaluate_saved_model(
        self,
        model_directory: PathLike,
        id_class_dict_file: PathLike,
        test_data_file: PathLike,
        output_directory: PathLike,
        output_prefix: str,
        predict: bool = True,
    ) -> dict[str, Any]:
        """Judge a fine-tuned model, of either package, on labelled cells; writes {prefix}_test_metrics_dict.pkl and, with
        `predict`, {prefix}_pred_dict.pkl.
        """
        self._vocabulary = self._check()
        names = judgement.class_names(id_class_dict_file)
        out = Path(output_directory)
        with workplace(model_directory, token_file(self.token_dictionary_file), out) as (folder, bundle):
            cells, labels, options = self._read(test_data_file, bundle, names, cap=False)
            everything = np.arange(len(labels.values))
            fold = Fold(name="test", train=everything[:0], judged=everything)
            job = prepared(bundle, cells, labels, options, fold, folder)
            found = judged(job, stored_model(bundle, job.head, model_directory))
        if predict:
            write_pickle(judgement.predictions(found), output_file(out, output_prefix, "_pred_dict.pkl"))
        report = judgement.metrics([found], names, several=False)
        write_pickle(report, output_file(out, output_prefix, "_test_metrics_dict.pkl"))
        return report

    def plot_conf_mat(
        self,
        conf_mat_dict: Mapping[str, Any],
        output_directory: PathLike,
        output_prefix: str,
        custom_class_order: Sequence[str] | None = None,
    ) -> None:
        """Draw {model: conf_matrix} as {prefix}_conf_mat.pdf; of several models the name is in the file's."""
        judgement.draw_matrices(conf_mat_dict, output_directory, output_prefix, custom_class_order)

    def plot_roc(
        self,
        roc_metric_dict: Mapping[str, Any],
        model_style_dict: Mapping[str, Mapping[str, Any]] | None,
        title: str,
        output_directory: PathLike,
        output_prefix: str,
    ) -> None:
        """Draw {model: all_roc_metrics} as {prefix}_roc.pdf; styles are {model: {color, linestyle}}."""
        judgement.draw_curves(roc_metric_dict, model_style_dict, title, output_directory, output_prefix)

    def plot_predictions(
        self,
        predictions_file: PathLike,
        id_class_dict_file: PathLike,
        title: str,
        output_directory: PathLike,
        output_prefix: str,
        custom_class_order: Sequence[str] | None = None,
        kwargs_dict: Mapping[str, Any] | None = None,
    ) -> None:
        """Draw the probabilities of predicted cells as {prefix}_pred.pdf. kwargs_dict, of seaborn, has no effect."""
        if kwargs_dict:
            deviates(f"kwargs_dict: {', '.join(kwargs_dict)} of the published plot has no effect here")
        names = judgement.class_names(id_class_dict_file)
        judgement.draw_predictions(predictions_file, names, title, output_directory, output_prefix, custom_class_order)
