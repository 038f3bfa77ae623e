"""Families that can be trained: found by name, and one that is only screened is refused."""

import pytest
from transformers import BertConfig

from rankshift.jobs.training.families.family import family_of_config, trained_family
from rankshift.screen.errors import InputError
from rankshift.screen.families.bert import BERT


class Screened(type(BERT)):
    """A family without a file here."""

    model_type, name = "another", "Another"


def test_the_file_of_a_family_bears_its_name():
    assert trained_family(BERT) is family_of_config(BertConfig())
    assert trained_family(BERT).config_name == "BertConfig"


def test_a_family_that_is_only_screened_is_not_trained():
    with pytest.raises(InputError, match="Another models can be screened, not trained: give a BERT model"):
        trained_family(Screened())
