"""What a draft or a target may answer. Everything else ends the stream that it came on, and harms no other.

`target.py` and `draft.py` say it for each answer, `numbers.py` for what they have in common. Only what cannot be is
refused: a wrong number that could be true cannot be told from a true one.
"""

from orchestrator.answers.ahead import check_ahead, check_branch
from orchestrator.answers.draft import check_draft_opened, check_drafted, check_rows
from orchestrator.answers.numbers import MalformedAnswerError
from orchestrator.answers.target import check_generated, check_resolved, check_verified

__all__ = [
    "MalformedAnswerError", "check_ahead", "check_branch", "check_draft_opened", "check_drafted", "check_generated",
    "check_resolved", "check_rows", "check_verified",
]  # fmt: skip
