"""What can be wrong with a run that its user can put right: each error is one line that says what to do."""

from __future__ import annotations

from tandem.distil.checkpoint import CheckpointError
from tandem.distil.conversations import NothingToAskError
from tandem.distil.dataset import DataError
from tandem.distil.generation import GenerationError
from tandem.distil.prompts import PromptError
from tandem.distil.provenance import ProvenanceError
from tandem.distil.recipe import RecipeError
from tandem.distil.shards import ShardError
from tandem.distil.student import StudentError
from tandem.distil.training import TrainingError
from tandem.distil.work import WorkError
from tandem.models import ModelError
from tandem.tokenization import TokenizationError

FAILURES: tuple[type[Exception], ...] = (
    RecipeError, PromptError, ProvenanceError, NothingToAskError, GenerationError, ShardError, DataError, StudentError,
    TrainingError, CheckpointError, WorkError, ModelError, TokenizationError, OSError,
)  # fmt: skip
