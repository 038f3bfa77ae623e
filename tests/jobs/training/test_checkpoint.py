"""The file of an unfinished training: what comes back, and what is said of a damaged one, another model's, or a full device."""

import pytest
import torch
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode

from rankshift.jobs.training.checkpoint import STATE, load, read_record, save
from rankshift.screen.errors import InputError
from rankshift.screen.files.seal import BLANK, KEY


def training(inputs: int = 4) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A layer after one step."""
    torch.manual_seed(inputs)
    model = torch.nn.Linear(inputs, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, inputs)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def saved(tmp_path):
    """A folder, and the training that is saved in it."""
    model, optimizer = training()
    save(tmp_path, model, optimizer, {"step": 7, "note": "x"})
    return tmp_path, model, optimizer


def test_weights_moments_and_record_come_back(saved):
    folder, model, optimizer = saved
    other = torch.nn.Linear(4, 3)
    fresh = torch.optim.AdamW(other.parameters())
    assert load(folder, other, fresh) == read_record(folder) == {"step": 7, "note": "x"}
    for ours, theirs in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert float(fresh.state[ours]["step"]) == 7
        for moment in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(fresh.state[ours][moment], optimizer.state[theirs][moment])


@pytest.mark.parametrize("kept", [0, 5, 20, -40])
def test_a_truncated_file_is_damaged(saved, kept):
    folder, model, optimizer = saved
    raw = (folder / STATE).read_bytes()
    (folder / STATE).write_bytes(raw[:kept])
    for reading in (lambda: load(folder, model, optimizer), lambda: read_record(folder)):
        with pytest.raises(InputError, match=r"its state.safetensors is damaged \(.+\); remove the folder"):
            reading()


@pytest.mark.slow
def test_no_bit_of_it_changes_unseen(saved):
    folder, _, _ = saved
    raw = (folder / STATE).read_bytes()
    for at in range(0, len(raw), 7):
        (folder / STATE).write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
        model, optimizer = training(inputs=4)
        try:
            record = load(folder, model, optimizer)
        except InputError:
            continue
        seal = raw.index(KEY.encode())  # without its name there is none, with another size it is a copy
        assert seal <= at < seal + len(KEY) + len(BLANK) + 4
        assert record == {"step": 7, "note": "x"}


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_values_that_are_no_numbers_are_refused(value, saved):
    folder, model, optimizer = saved
    optimizer.state[model.bias]["exp_avg"][1] = value
    save(folder, model, optimizer, {"step": 7})
    with pytest.raises(InputError, match=r"damaged \(exp_avg.bias holds values that are no finite numbers\)"):
        load(folder, model, optimizer)


def test_a_record_nested_too_deeply_is_damaged(saved):
    folder, _, _ = saved
    save_file({"weight.bias": torch.ones(3)}, folder / STATE, metadata={"record": "[" * 100_000 + "]" * 100_000})
    with pytest.raises(InputError, match=r"its state.safetensors is damaged"):
        read_record(folder)


def test_a_file_without_a_record_is_damaged(saved):
    folder, model, optimizer = saved
    save(folder, model, optimizer, {"note": "no step"})
    with pytest.raises(InputError, match=r"is damaged \('step'\)"):
        read_record(folder)


def test_a_step_that_no_float_holds_is_damage(saved):
    folder, model, optimizer = saved
    save(folder, model, optimizer, {"step": 10**400})
    with pytest.raises(InputError, match=r"is damaged \(int too large"):
        read_record(folder)


def test_a_file_of_another_model_is_whole_and_nothing_is_set(saved):
    folder, _, _ = saved
    model, optimizer = training(inputs=5)
    before = [p.detach().clone() for p in model.parameters()]
    shapes = r"\(exp_avg.weight is \[3, 4\], the model's is \[3, 5\]\): give the model and options it began with"
    with pytest.raises(InputError, match=shapes) as refused:
        load(folder, model, optimizer)
    assert "remove" not in str(refused.value)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_file_that_cannot_be_opened_needs_no_removing(tmp_path):
    model, optimizer = training()
    with pytest.raises(InputError, match=r"cannot be read \(No such file.*nothing needs removing"):
        load(tmp_path, model, optimizer)


class FullDevice(TorchFunctionMode):
    """A device on which nothing more fits."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        if function is torch.Tensor.copy_:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return function(*arguments, **(options or {}))


def test_a_full_device_is_no_fault_of_the_file(saved):
    folder, model, optimizer = saved
    with FullDevice(), pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 2.00 GiB"):
        load(folder, model, optimizer)
    assert load(folder, model, optimizer)["step"] == 7
