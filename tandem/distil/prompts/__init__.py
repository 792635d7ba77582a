"""What a target is asked: prompts from files, from built-in templates, and those that it writes itself.

`source` says what a prompt is, `files`, `templates` and `own_turns` are where they come from, `exclude` keeps out what
a draft will be measured on, `mixture` draws from all of them as the recipe says.
"""

from tandem.distil.prompts.mixture import Mixture, open_mixture
from tandem.distil.prompts.source import Prompt, PromptError, Source

__all__ = ["Mixture", "Prompt", "PromptError", "Source", "open_mixture"]
