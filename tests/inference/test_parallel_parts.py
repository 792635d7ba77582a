"""The parts of a group, each by itself: what a step's message says, who may come in, what counts as lost, refusals."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BloomConfig, LlamaConfig, Phi3Config

from tandem.inference.blocks import BlockPool
from tandem.inference.cache import EntryShape, KeyValueCache
from tandem.inference.loading import check_shards
from tandem.inference.parallel import watch
from tandem.inference.parallel.link import Door, Link, knock
from tandem.inference.parallel.member import own_device
from tandem.inference.parallel.message import Placed, StepMessage
from tandem.inference.parallel.place import GroupError, Place, check_alone, own_place
from tandem.inference.parallel.shards import check_config
from tandem.inference.parallel.watch import Watch
from tandem.inference.step import Part
from tandem.inference.table import BlockTable
from tandem.models import UnsupportedModelError, resolve
from tests.models.folders import save_llama

TORCHRUN = {
    "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "host",
    "MASTER_PORT": "29500",
}  # fmt: skip
HERE = Place(rank=0, world=3, local_rank=0, local_world=3, address="127.0.0.1")

# What a step's message says.

_NUMBERS = st.lists(st.integers(0, 1 << 40), max_size=8)
_RUNS = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=4)
_PARENTS = st.sampled_from([(), (-1,), (-1, 0, -1, 1, 1)])
_PARTS = st.lists(st.builds(Placed, st.integers(0, 99), st.integers(0, 99), _RUNS, _PARENTS), max_size=4)
_COPIES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 16)), max_size=3)


@given(st.builds(StepMessage, _NUMBERS, _NUMBERS, _PARTS, _COPIES))
def test_a_message_says_what_was_put_into_it(message: StepMessage) -> None:
    assert StepMessage.decode(message.encode()) == message


@pytest.mark.parametrize("seed", range(20))
def test_a_follower_finds_the_entries_where_the_leader_has_them(seed: int) -> None:
    chance = random.Random(seed)
    pool = BlockPool(24)
    tables = [BlockTable(pool, lambda *_: None) for _ in range(4)]
    for _ in range(6):  # so that their blocks lie among each other's
        table = chance.choice(tables)
        count = min(chance.choice([1, 5, 16, 20]), 16 * pool.available)
        if count:
            table.reserve(count)
            table.advance(count)
    cache = KeyValueCache(EntryShape(1, 1, 1, 1, torch.float32), 1, torch.device("cpu"))
    for table in tables:
        table.reserve(3)
        part = Part(0, 3, table, cache)
        [placed] = StepMessage.decode(StepMessage.of([1, 2, 3], [2], [part], []).encode()).parts
        copied = Part(0, placed.count, placed, cache)  # type: ignore[arg-type]
        assert (copied.past, copied.length, copied.extents) == (part.past, part.length, part.extents)
        for first in range(part.length):
            for count in (0, 1, 2, part.length - first):
                if first + count <= part.length:
                    assert placed.slots(first, count) == table.slots(first, count)
    assert StepMessage([], [], [Placed(4, 3, []), Placed(0, 2, [])], []).positions == [4, 5, 6, 0, 1]
    # One token of text and then three of a tree; of another tree the last two.
    trees = [Placed(4, 4, [], (-1, -1, 0)), Placed(6, 2, [], (-1, -1, 0, 2))]
    assert StepMessage([], [], trees, []).positions == [4, 5, 5, 6, 5, 6]


# Who is who.


def test_torchrun_says_which_process_this_is() -> None:
    assert own_place({}) is None and own_place({**TORCHRUN, "WORLD_SIZE": "1"}) is None
    place = own_place({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "2"})
    assert place == Place(rank=1, world=4, local_rank=1, local_world=2, address="host", attempt=2)
    assert not place.leads and not place.on_one_machine
    assert own_place({**TORCHRUN, "RANK": "0", "LOCAL_WORLD_SIZE": "4"}).leads  # type: ignore[union-attr]


@pytest.mark.parametrize("missing", [name for name in TORCHRUN if name != "WORLD_SIZE"])
def test_half_of_torchruns_variables_are_refused(missing: str) -> None:
    variables = {name: value for name, value in TORCHRUN.items() if name != missing}
    with pytest.raises(GroupError, match=f"WORLD_SIZE is 4 but {missing} is not set: start the processes by torchrun"):
        own_place(variables)


@pytest.mark.parametrize(
    "name, value", [("RANK", "4"), ("RANK", "-1"), ("WORLD_SIZE", "two"), ("LOCAL_RANK", "2"), ("MASTER_PORT", "0")]
)
def test_numbers_that_make_no_sense_are_named(name: str, value: str) -> None:
    with pytest.raises(GroupError, match=f"^{name} is '{value}', and not a number "):
        own_place({**TORCHRUN, name: value})


def test_a_service_of_one_process_says_so() -> None:
    check_alone("draft", {})
    with pytest.raises(GroupError, match="WORLD_SIZE is 4: a draft service is one process"):
        check_alone("draft", TORCHRUN)


def test_a_process_of_a_group_is_not_given_anothers_gpu() -> None:
    with pytest.raises(GroupError, match="--device cuda:1: each process of a group takes the GPU of its own number"):
        own_device("cuda:1", HERE)
    if torch.cuda.device_count() < HERE.local_world:
        with pytest.raises(GroupError, match="3 processes on this machine need a GPU each, and it has"):
            own_device("cuda", HERE)


# Who may come in.


@pytest.fixture
def door() -> Iterator[Door]:
    with Door(HERE) as door:
        yield door


def test_strangers_are_turned_away_and_the_others_come_in(door: Door) -> None:
    facts = json.loads(door.invitation)
    good = {"secret": facts["secret"], "rank": 1, "purpose": "steps"}
    wrong = [
        b"GET / HTTP/1.1\r\n\r\n", b"", b"\xff\xff\xff\xff", json.dumps(good).encode(), _framed({}), _framed([]),
        _framed({**good, "rank": 0}), _framed({**good, "rank": 3}), _framed({**good, "rank": "1"}),
        _framed({**good, "purpose": "x"}), _framed({**good, "secret": "0" * 64}),
    ]  # fmt: skip
    strangers = []
    for sent in wrong:
        strangers.append(socket.create_connection(("127.0.0.1", facts["port"])))
        strangers[-1].sendall(sent)
        strangers[-1].shutdown(socket.SHUT_WR)
    followers = [knock(_place(rank), door.invitation) for rank in (2, 1)]
    admitted = door.admit(20)
    assert {rank: set(links) for rank, links in admitted.items()} == {1: {"steps", "life"}, 2: {"steps", "life"}}
    admitted[2]["steps"].send(b"for two")
    followers[0]["steps"].send_facts({"from": 2})
    assert followers[0]["steps"].receive() == b"for two"
    assert admitted[2]["steps"].receive_facts() == {"from": 2}
    for connection in strangers:
        connection.settimeout(5)
        try:
            assert connection.recv(1) == b""
        except ConnectionResetError:
            pass
        connection.close()
    _close(*admitted.values(), *followers)


def test_who_does_not_come_is_named(door: Door) -> None:
    links = knock(_place(1), door.invitation)
    with pytest.raises(GroupError, match="rank 2 has not joined rank 0 within 0.2 s"):
        door.admit(0.2)
    _close(links)


def _place(rank: int) -> Place:
    return Place(rank=rank, world=3, local_rank=rank, local_world=3, address="127.0.0.1")


def _framed(facts: object) -> bytes:
    data = json.dumps(facts).encode()
    return len(data).to_bytes(4, "little") + data


def _close(*ends: dict[str, Link]) -> None:
    for links in ends:
        for link in links.values():
            link.close()


# What counts as lost.


class Lost:
    """What a watch called, and with what."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._called = threading.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self._called.set()

    def comes_within(self, seconds: float) -> bool:
        return self._called.wait(seconds)

    def wait(self) -> str:
        assert self._called.wait(20)
        [reason] = self.reasons
        return reason


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_BEAT_SECONDS", 0.02)
    monkeypatch.setattr(watch, "_SILENCE_SECONDS", 1.5)
    monkeypatch.setattr(watch, "_STEP_SECONDS", 0.1)
    monkeypatch.setattr(watch, "_SETTLE_SECONDS", 0.05)


def test_a_process_that_has_ended_is_lost(ends: tuple[socket.socket, socket.socket]) -> None:
    lost = Lost()
    watching = Watch({"rank 1": ends[0]}, lost)
    ends[1].close()
    assert lost.wait() == "rank 1 is gone" == watching.lost
    later = Lost()
    watching.call(later)
    assert later.wait() == "rank 1 is gone"
    assert watching.fail("a step failed") == "rank 1 is gone"
    assert len(lost.reasons) == 1


def test_silence_is_a_loss_once_the_watch_is_strict(ends: tuple[socket.socket, socket.socket]) -> None:
    lost = Lost()
    watching = Watch({"rank 1": ends[0]}, lost)
    assert not lost.comes_within(2)
    watching.be_strict()
    assert lost.wait() == "rank 1 has not been heard of for 1.5 s"


def test_two_that_watch_each_other_lose_nothing_while_both_live(ends: tuple[socket.socket, socket.socket]) -> None:
    both = [Lost(), Lost()]
    watches = [Watch({f"rank {rank}": end}, lost) for rank, end, lost in zip((1, 0), ends, both, strict=True)]
    for each in watches:
        each.be_strict()
    assert not both[0].comes_within(2.2)
    assert both[0].reasons == both[1].reasons == []
    for each in watches:
        each.dismiss()


def test_a_step_that_never_ends_is_a_loss(ends: tuple[socket.socket, socket.socket]) -> None:
    both = [Lost(), Lost()]
    watches = [Watch({f"rank {rank}": end}, lost) for rank, end, lost in zip((1, 0), ends, both, strict=True)]
    watches[0].be_strict()
    watches[0].busy_since = 0.0
    assert both[0].wait() == "a step has taken more than 0.1 s"
    watches[1].dismiss()


def test_an_end_in_order_is_no_loss(ends: tuple[socket.socket, socket.socket]) -> None:
    lost = Lost()
    watching = Watch({"rank 1": ends[0]}, lost)
    watching.be_strict()
    watching.dismiss()
    ends[1].close()
    assert not lost.comes_within(0.5)
    assert watching.lost is None


def test_what_failed_by_itself_is_said(ends: tuple[socket.socket, socket.socket]) -> None:
    lost = Lost()
    watching = Watch({"rank 1": ends[0]}, lost)
    assert watching.fail("a step failed on rank 0: out of memory") == lost.wait()
    assert lost.reasons == ["a step failed on rank 0: out of memory"]


# What cannot be split.

_SHAPE = {"vocab_size": 64, "hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 1}


def test_heads_that_do_not_divide_are_named_with_what_they_divide_among() -> None:
    check_config("m", LlamaConfig(**_SHAPE, num_key_value_heads=2), 2)
    with pytest.raises(
        UnsupportedModelError, match="^m cannot be split over 2 processes: its 3 key heads divide among 1, 3$"
    ):
        check_config("m", LlamaConfig(**_SHAPE, num_key_value_heads=3), 2)
    with pytest.raises(UnsupportedModelError, match="over 4 processes: its 6 key heads divide among 1, 2, 3, 6$"):
        check_config("m", LlamaConfig(**_SHAPE, num_key_value_heads=6), 4)


def test_heads_that_the_plan_keeps_together_need_not_divide() -> None:
    check_config("m", Phi3Config(**_SHAPE, num_key_value_heads=3, pad_token_id=0), 2)


def test_a_model_without_a_plan_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="m cannot be split .* has no tensor parallel plan for bloom"):
        check_config("m", BloomConfig(vocab_size=64, hidden_size=48, n_head=6, n_layer=1), 2)


def test_quantised_weights_and_drafts_of_a_few_layers_are_refused(tmp_path: Path) -> None:
    save_llama(tmp_path / "tiny")
    folder = resolve(str(tmp_path / "tiny"))
    check_shards(folder, weights="full", shards=2)
    with pytest.raises(UnsupportedModelError, match="--weights int8: quantised layers cannot be split over 2"):
        check_shards(folder, weights="int8", shards=2)
    (folder.path / "tandem.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="tiny is a draft of a few layers: it cannot be split"):
        check_shards(folder, weights="full", shards=2)
