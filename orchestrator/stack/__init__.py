"""A stack of models: a middle one verifies the draft, and the target verifies the middle one.

`middle.py` first, then `side.py`, which stands where the draft's side does; `choice.py` says which stack a completion
is made by.
"""

from orchestrator.stack.below import Below
from orchestrator.stack.choice import Stack, Stacks, StacksByKey
from orchestrator.stack.middle import Middle
from orchestrator.stack.side import StackSide

__all__ = ["Below", "Middle", "Stack", "StackSide", "Stacks", "StacksByKey"]
