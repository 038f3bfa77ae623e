"""The classes of the published package over this engine: change one import line, keep the notebook (docs/migrating.md).

Option names, defaults and output files are the published ones. Where a number or a file differs on purpose, a `Deviation`
warning says so once; what is not implemented is refused in one line, never ignored.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankshift.compat.classifier import Classifier
    from rankshift.compat.collators import DataCollatorForCellClassification, DataCollatorForGeneClassification
    from rankshift.compat.extractor import EmbExtractor
    from rankshift.compat.inputs import Deviation
    from rankshift.compat.multitask import MTLClassifier
    from rankshift.compat.perturber import InSilicoPerturber
    from rankshift.compat.pretrainer import GeneformerPretrainer
    from rankshift.compat.statistics import InSilicoPerturberStats
    from rankshift.compat.tokenizer import TranscriptomeTokenizer

_PLACE = {
    "Classifier": "classifier",
    "DataCollatorForCellClassification": "collators",
    "DataCollatorForGeneClassification": "collators",
    "Deviation": "inputs",
    "EmbExtractor": "extractor",
    "GeneformerPretrainer": "pretrainer",
    "InSilicoPerturber": "perturber",
    "InSilicoPerturberStats": "statistics",
    "MTLClassifier": "multitask",
    "TranscriptomeTokenizer": "tokenizer",
}

__all__ = [
    "Classifier",
    "DataCollatorForCellClassification",
    "DataCollatorForGeneClassification",
    "Deviation",
    "EmbExtractor",
    "GeneformerPretrainer",
    "InSilicoPerturber",
    "InSilicoPerturberStats",
    "MTLClassifier",
    "TranscriptomeTokenizer",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Start-up time: the import of one class loads nothing that only the others need.
    from rankshift.screen.extras import said

    with said():
        return getattr(import_module(f"{__name__}.{_PLACE[name]}"), name)
