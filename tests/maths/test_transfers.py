"""What goes between host and device."""

from __future__ import annotations

import pytest
import torch

from tandem import transfers
from tandem.transfers import join, portions, to_host, upload


def test_neighbours_in_one_tensor_are_joined_without_a_copy() -> None:
    whole = torch.arange(24.0).view(6, 4)
    parts = list(whole.split([1, 2, 3]))
    assert torch.equal(join(parts), whole) and join(parts).data_ptr() == whole.data_ptr()
    assert torch.equal(join(parts[1:]), whole[1:])
    assert join(parts[:1]) is parts[0]


@pytest.mark.parametrize(
    "order", [[1, 0, 2], [0, 2], [0, 0], [2, 1, 0]], ids=["swapped", "with a gap", "twice", "backwards"]
)
def test_others_are_copied(order: list[int]) -> None:
    parts = torch.arange(24.0).view(6, 4).split([1, 2, 3])
    chosen = [parts[index] for index in order]
    assert torch.equal(join(chosen), torch.cat(chosen))


def test_parts_of_rows_and_of_several_tensors_are_copied() -> None:
    whole = torch.arange(24.0).view(6, 4)
    narrow = list(whole[:, :3].split(2))
    assert torch.equal(join(narrow), whole[:, :3])
    apart = [torch.ones(2, 4), torch.zeros(1, 4)]
    assert torch.equal(join(apart), torch.cat(apart))


def test_all_comes_back_by_one_copy_in_its_own_shape(monkeypatch) -> None:
    sent = {
        "ids": torch.tensor([[2**53, -1]]),
        "flags": torch.tensor([True, False]),
        "numbers": torch.tensor([0.1, -torch.inf]),
        "halves": torch.tensor([[1.5], [2.5]], dtype=torch.float16),
        "nothing": torch.zeros(0, 7),
    }
    copies = []
    monkeypatch.setattr(torch.Tensor, "is_cpu", property(lambda tensor: False))
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(tensor) or tensor)
    found, empty, again = to_host([sent, {}, {"numbers": sent["numbers"]}])
    assert len(copies) == 1 and empty == {}
    for name, tensor in sent.items():
        assert found[name].dtype == torch.float64 and torch.equal(found[name], tensor.double())
    assert torch.equal(again["numbers"], sent["numbers"].double())


def test_what_is_on_the_cpu_stays_as_it_is() -> None:
    tensor = torch.tensor([1, 2])
    assert to_host([{"ids": tensor}])[0]["ids"] is tensor
    assert to_host([]) == [] and to_host([{}]) == [{}]


def test_numbers_are_uploaded_in_their_shape() -> None:
    found = upload([[1, 2], [3, 4]], torch.long, torch.device("cpu"))
    assert found.dtype == torch.long and found.tolist() == [[1, 2], [3, 4]]
    assert upload([0.1], torch.float64, torch.device("meta")).is_meta


def test_the_cpu_takes_as_many_at_once_as_pay_and_a_device_takes_all(monkeypatch) -> None:
    monkeypatch.setattr(transfers, "_ENTRIES", 40)
    parts = [torch.zeros(rows, 10) for rows in (1, 2, 1, 9, 1, 3)]
    assert portions(parts) == [slice(0, 3), slice(3, 4), slice(4, 6)]
    assert portions([part.to("meta") for part in parts]) == [slice(0, 6)]
    assert portions(parts[:1]) == [slice(0, 1)]
