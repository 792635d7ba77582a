"""What a draft is made from and how: the settings of a run, as a file of TOML that can be committed."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Temperature = Annotated[float, Field(ge=0, le=4)]


class RecipeError(ValueError):
    """A recipe says what cannot be."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Prompts(_Section):
    """files: of prompts (`.jsonl` with `prompt`, `turns` or `messages`, or `.txt` with one a line), relative to the
    recipe. templates: use the built-in ones. self_written: share of prompts that the target, an instruct model, writes
    itself, from nothing but the head of a user's turn (Magpie, arXiv 2406.08464). exclude: files of prompts that must
    not be among them, nor what shares a run of words with them."""

    files: tuple[str, ...] = ()
    templates: bool = True
    self_written: float = Field(default=0.5, ge=0, le=1)
    exclude: tuple[str, ...] = ()


class Data(_Section):
    """tokens: of answers, all together. answer_tokens: most of one. prompt_tokens: most of a prompt, longer ones are
    left out. temperatures: taken in turn. kept: K entries of each of the target's distributions. held_out: share of
    sequences that are for measuring. shard_tokens: of answers in a shard, about. batch: sequences that are answered
    together."""

    tokens: int = Field(default=2_000_000, ge=1)
    answer_tokens: int = Field(default=256, ge=1)
    prompt_tokens: int = Field(default=1024, ge=1)
    temperatures: tuple[Temperature, ...] = Field(default=(0.0, 0.7, 1.0), min_length=1)
    kept: int = Field(default=64, ge=1)
    held_out: float = Field(default=0.02, gt=0, lt=1)
    shard_tokens: int = Field(default=32_768, ge=1)
    batch: int = Field(default=64, ge=1)
    dtype: Literal["bfloat16", "float32"] = "bfloat16"


class Student(_Section):
    """kind: what the draft reads: tokens alone, or the target's features as well. layers: how many; of a draft that
    reads features 1 where nothing is said. initial: which of the target's they begin as; empty for the first ones and
    the last. start_from: a draft of the same shape whose layers it begins as instead, named as models are. vocabulary:
    tokens that the draft can say, the commonest ones; 0 for all."""

    kind: Literal["layers", "features"] = "layers"
    layers: int = Field(default=3, ge=1)
    initial: tuple[int, ...] = ()
    start_from: str | None = None
    vocabulary: int = Field(default=16_384, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _one_layer(cls, facts: Any) -> Any:
        if isinstance(facts, dict) and facts.get("kind") == "features":
            return {"layers": 1, **facts}
        return facts


class Training(_Section):
    """epochs: passes over the data. batch_tokens: of one step, answers and prompts. learning_rate: the highest.
    warm_up: share of steps. total_variation: its weight beside KL. feature_distance: that of how far the states of a
    draft that reads features are from the target's. checkpoint_seconds, report_steps: between two."""

    epochs: float = Field(default=2.0, gt=0)
    batch_tokens: int = Field(default=1024, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    warm_up: float = Field(default=0.03, ge=0, lt=1)
    total_variation: float = Field(default=0.5, ge=0)
    feature_distance: float = Field(default=10.0, ge=0)
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    checkpoint_seconds: float = Field(default=300.0, gt=0)
    report_steps: int = Field(default=500, ge=1)


class Recipe(_Section):
    """target: a model's name, as the services take it. weights: of the draft's folder."""

    target: str
    revision: str | None = None
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    weights: Literal["bfloat16", "int8"] = "int8"
    prompts: Prompts = Prompts()
    data: Data = Data()
    student: Student = Student()
    training: Training = Training()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises RecipeError, which names the field."""
        try:
            return cls.model_validate(tomllib.loads(path.read_text("utf-8")))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise RecipeError(f"{path}: {field}: {first['msg']}") from error
