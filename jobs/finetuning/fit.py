"""Learning: the model that one fold's training units make, through the training loop that all trainings share."""

import numpy as np
import torch

from rankshift.jobs.finetuning.adapters import add_adapters, carry_over, merge, quantized
from rankshift.jobs.finetuning.evaluation.predictions import predict
from rankshift.jobs.finetuning.evaluation.report import task_reports
from rankshift.jobs.finetuning.examples import CellBatches
from rankshift.jobs.finetuning.labels.splits import Fold
from rankshift.jobs.finetuning.models import Classifier, freeze, new_model
from rankshift.jobs.finetuning.preparation import FinetuneJob, Prepared, prepare
from rankshift.jobs.training import Trainer, mean_loss
from rankshift.jobs.training.gang import Collective, Rank, Report, group


def learn(prepared: Prepared, fold: Fold, device: torch.device, collective: Collective, report: Report) -> Classifier:
    """The model that a fold's training units make: plain weights, adapters merged, numbers in the label's own units."""
    job, options = prepared.job, prepared.job.options
    train_set, eval_set = prepared.train_set(fold), prepared.eval_set(fold)
    with torch.random.fork_rng([]):
        torch.manual_seed(options.seed)
        plain = new_model(prepared.bundle, prepared.head, options.dropout)
        freeze(plain, options.freeze)
        model, adapted, carried = plain, None, None
        if options.lora is not None:
            if options.quantize:
                model = quantized(plain)
                carried = add_adapters(model, options.lora, options.freeze)
            adapted = add_adapters(plain, options.lora, options.freeze)
    if carried is None:  # a quantized model is on its GPU already, and refuses to be moved
        model = model.to(device)

    def held_out_loss() -> dict[str, float]:
        parts = CellBatches(eval_set, options, device, collective).once()
        return {"held_out_loss": mean_loss(model, eval_set.loss, parts, collective)}

    judges = len(eval_set.rows) > 0
    Trainer(
        model=model,
        loss=train_set.loss,
        source=CellBatches(train_set, options, device, collective),
        recipe=options,
        collective=collective,
        report=report,
        folder=job.unfinished / stage(fold),
        identity={**prepared.identity, "stage": fold.name},
        evaluate=held_out_loss if judges else None,
        evaluated=("held_out_loss",) if judges else (),
    ).fit()
    if carried is not None:
        carry_over(model, plain)
    if adapted is not None:
        plain = merge(adapted)
    if not prepared.head.tasks[0].classes:
        _unstandardise(plain, *prepared.scale(fold))
    return plain.to(device).eval()


def stage(fold: Fold) -> str:
    """Name of the folder in which a fold's training lives until it is done."""
    return fold.name.replace(" ", "-")


@torch.no_grad()
def _unstandardise(model: Classifier, mean: float, sd: float) -> None:
    """Logits in units of the label: the scale of the targets goes into the head."""
    model.classifier.weight.mul_(sd)
    model.classifier.bias.mul_(sd).add_(mean)


class _Silent:
    """A report that nobody reads and that never stops."""

    def __call__(self, n: int, note: str = "") -> None:
        pass

    def stopped(self) -> bool:
        return False


def inner_score(job: FinetuneJob, device: torch.device) -> float:
    """The score of the job's settings on an inner cut of the training units: mean over tasks of macro F1 (R² for numbers).

    For gene tasks the score counts genes, not token positions.
    """
    prepared = prepare(job, inner=True)
    fold = prepared.splits.inner
    assert fold is not None
    with group(Rank(), device) as collective:
        model = learn(prepared, fold, device, collective, _Silent())
        logits = predict(model, prepared.eval_set(fold), job.options.batch_tokens, collective)
    judged = task_reports(prepared.only(fold), {fold.name: logits})[: len(prepared.head.tasks)]
    found = [report.scores()["final"] for report in judged]
    return float(np.mean([scores["macro_f1"] if "macro_f1" in scores else scores["r2"] for scores in found]))
