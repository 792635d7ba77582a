"""Grafted drafts whose output layer is cut to a list of tokens: what they say, and which lists are refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import Gemma2Config, Gemma2ForCausalLM

from tandem.inference.cut_head import cut_head, spread_logits
from tandem.inference.loading import load_model
from tandem.inference.runner import Block, ModelRunner
from tandem.models import ModelCorruptError, resolve
from tandem.sayable import Sayable
from tests.models.checks import refused
from tests.models.folders import SHAPE
from tests.models.test_grafts import TOKENS, change_graft, graft, load

SIZE = SHAPE["vocab_size"]
KEPT = [0, 1, 5, 17, 40, 41, 63]
OTHERS = sorted(set(range(SIZE)) - set(KEPT))


def cut(tmp_path: Path, token_ids: Any = KEPT, **facts: Any) -> Path:
    """A draft that can say these tokens."""
    draft = graft(tmp_path, **facts)
    tensors = token_ids if isinstance(token_ids, dict) else {"token_ids": torch.tensor(token_ids, dtype=torch.int32)}
    save_file(tensors, draft / "vocabulary.safetensors")
    change_graft(draft, vocabulary="vocabulary.safetensors")
    return draft


@pytest.mark.parametrize("tied", [True, False])
def test_its_logits_are_the_whole_models_and_minus_infinity_elsewhere(tied: bool, tmp_path: Path) -> None:
    draft, whole = load(cut(tmp_path, tied=tied)), load(tmp_path / "whole")
    with torch.inference_mode():
        ours, theirs = (each.model(input_ids=TOKENS).logits for each in (draft, whole))
    assert ours.shape == theirs.shape and draft.vocabulary_size == SIZE
    torch.testing.assert_close(ours[..., KEPT], theirs[..., KEPT])
    assert bool((ours[..., OTHERS] == -math.inf).all())
    assert draft.sayable is not None and draft.sayable.token_ids.tolist() == KEPT and whole.sayable is None


def test_the_embedding_stays_whole(tmp_path: Path) -> None:
    """Tokens that it cannot say are read all the same."""
    draft, whole = load(cut(tmp_path)), load(tmp_path / "whole")
    assert torch.equal(draft.model.get_input_embeddings().weight, whole.model.get_input_embeddings().weight)
    assert draft.model.get_output_embeddings().weight.shape == (len(KEPT), SHAPE["hidden_size"])


@pytest.mark.parametrize("weights", ["full", "int8", "int4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_runs_in_the_batched_runner_with_any_weights(weights: str, dtype: str, tmp_path: Path) -> None:
    """Step by step, as replayed, as in one pass; near what the whole model says of its tokens."""
    folders = [cut(tmp_path), tmp_path / "whole"]
    steps, passes = [], []
    for folder in folders:
        loaded = load_model(resolve(str(folder)), dtype=dtype, device="cpu", weights=weights)
        runner = ModelRunner(loaded)
        tokens = TOKENS[0].tolist() * 2
        passes.append(runner.forward([Block(runner.open(), tokens, len(tokens))])[0])
        sequence = runner.open()
        steps.append(torch.cat([runner.forward([Block(sequence, [token], 1)])[0] for token in tokens]))
    for rows in (steps, passes):
        assert rows[0].shape == rows[1].shape and rows[0].dtype == torch.float32
        assert bool((rows[0][:, OTHERS] == -math.inf).all())
        torch.testing.assert_close(rows[0][:, KEPT], rows[1][:, KEPT], rtol=0.03, atol=0.03)


def test_every_token_may_be_in_the_list(tmp_path: Path) -> None:
    draft, whole = load(cut(tmp_path, list(range(SIZE)))), load(tmp_path / "whole")
    with torch.inference_mode():
        assert torch.equal(draft.model(input_ids=TOKENS).logits, whole.model(input_ids=TOKENS).logits)


def test_logits_that_the_model_bends_stay_minus_infinity() -> None:
    """A soft cap would make a number of them."""
    config = Gemma2Config(
        vocab_size=SIZE, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=5.0,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config).eval().requires_grad_(False)
    before = model(input_ids=TOKENS).logits
    cut_head(model, torch.tensor(KEPT))
    spread_logits(model, Sayable.of(torch.tensor(KEPT)), SIZE)
    after = model(input_ids=TOKENS).logits
    torch.testing.assert_close(after[..., KEPT], before[..., KEPT])
    assert bool((after[..., OTHERS] == -math.inf).all())


@pytest.mark.parametrize(
    ("token_ids", "words"),
    [
        ([1, 2, SIZE], ["token 64", "[0, 64)"]),
        ([-1, 2, 3], ["token -1", "[0, 64)"]),
        ([1, 3, 3], ["must rise", "3 follows 3"]),
        ([1, 3, 2], ["must rise", "2 follows 3"]),
        ([], ["int32 [C]", "[0]"]),
        ({"token_ids": torch.tensor([1, 2])}, ["int32 [C]", "torch.int64"]),
        ({"token_ids": torch.tensor([[1, 2]], dtype=torch.int32)}, ["int32 [C]", "[1, 2]"]),
        ({"ids": torch.tensor([1, 2], dtype=torch.int32)}, ["must hold token_ids", "ids"]),
    ],
)
def test_an_unfit_list_is_refused_by_name(token_ids: Any, words: list[str], tmp_path: Path) -> None:
    with refused(ModelCorruptError, "draft: its vocabulary cannot be used: vocabulary.safetensors", *words):
        load(cut(tmp_path, token_ids))


def test_a_damaged_or_missing_list_is_refused_by_name(tmp_path: Path) -> None:
    draft = cut(tmp_path)
    file = draft / "vocabulary.safetensors"
    whole = file.read_bytes()
    for content in (None, b"", whole[:20], whole[:-4]):
        file.unlink() if content is None else file.write_bytes(content)
        with refused(ModelCorruptError, "draft: its vocabulary cannot be used: vocabulary.safetensors cannot be read"):
            load(draft)
    change_graft(draft, vocabulary=3)  # type: ignore[arg-type]
    with refused(ModelCorruptError, "draft: tandem.json: vocabulary must name a file"):
        load(draft)



@pytest.mark.parametrize("named", ["int8", "int4", "full", None])
def test_auto_weights_are_those_that_its_folder_names(named: str | None, tmp_path: Path) -> None:
    draft = cut(tmp_path)
    if named:
        change_graft(draft, cpu_weights=named)
    loaded, asked, base = (
        load_model(resolve(str(folder)), device="cpu", weights=weights)
        for folder, weights in ((draft, "auto"), (draft, "full"), (tmp_path / "whole", "auto"))
    )
    assert (loaded.weights, asked.weights, base.weights) == (named or "full", "full", "full")


def test_weights_that_there_are_not_are_refused_by_name(tmp_path: Path) -> None:
    draft = cut(tmp_path)
    change_graft(draft, cpu_weights="int3")
    with refused(ModelCorruptError, "draft: tandem.json: cpu_weights must be one of full, int8, int4"):
        load(draft)
