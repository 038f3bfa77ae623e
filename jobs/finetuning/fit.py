"""Learning: the model that one fold's training units make, through the training loop that all trainings share."""

import numpy as np
import torch

from rankshift.jobs.finetuning.adapters import add_adapters, carry_over, merge, quantized
from rankshift.jobs.finetuning.evaluation.predictions import predict
from rankshift.jobs.finetuning.evaluation.report import verdicts
from rankshift.jobs.finetuning.examples import CellBatches
from rankshift.jobs.finetuning.labels.splits import Fold
from rankshift.jobs.finetuning.models import Classifier, freeze, new_model
from rankshift.jobs.finetuning.preparation import FinetuneJob, Prepared, prepare
from rankshift.jobs.training import Trainer, mean_loss
from rankshift.jobs.training.gang import Peers, Report, Seat, group


def learn(prepared: Prepared, fold: Fold, device: torch.device, peers: Peers, report: Report) -> Classifier:
    """The model that a fold's training units make: plain weights, adapters merged, numbers in the label's own units."""
    job, options = prepared.job, prepared.job.options
    lesson, exam = prepared.lesson(fold), prepared.exam(fold)
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
        parts = CellBatches(exam, options, device, peers).once()
        return {"held_out_loss": mean_loss(model, exam.loss, parts, peers)}

    judges = len(exam.rows) > 0
    Trainer(
        model=model,
        loss=lesson.loss,
        source=CellBatches(lesson, options, device, peers),
        recipe=options,
        peers=peers,
        report=report,
        folder=job.unfinished / stage(fold),
        identity={**prepared.identity, "stage": fold.name},
        judge=held_out_loss if judges else None,
        judged=("held_out_loss",) if judges else (),
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
    with group(Seat(), device) as peers:
        model = learn(prepared, fold, device, peers, _Silent())
        logits = predict(model, prepared.exam(fold), job.options.batch_tokens, peers)
    judged = verdicts(prepared.only(fold), {fold.name: logits})[: len(prepared.head.tasks)]
    found = [verdict.scores()["final"] for verdict in judged]
    return float(np.mean([scores["macro_f1"] if "macro_f1" in scores else scores["r2"] for scores in found]))
