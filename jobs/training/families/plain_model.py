"""A trained model as a folder that plain transformers opens."""

from pathlib import Path

from transformers import PreTrainedModel
from transformers.utils import logging


def save_plain(model: PreTrainedModel, folder: Path) -> None:
    """Write config.json and model.safetensors into the folder, which is there, without the bar that transformers shows."""
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # one small file needs no bar
    try:
        model.save_pretrained(folder)
    finally:
        if bars:
            logging.enable_progress_bar()
