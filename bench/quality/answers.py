"""The number that an answer to a GSM8K question ends with (Cobbe et al., 2021, arXiv 2110.14168)."""

from __future__ import annotations

import re
from decimal import Decimal

#: Added to a question, so that an answer ends as the data set's own do.
INSTRUCTION = "\nThink step by step. End with the final number after ####."

_NUMBER = re.compile(
    r"""(?:(?<![\w)\]%])[-\u2212](?:\$[ ]?)?      # -5, -$5, but not the minus of 10-4
           |\$[ ]?[-\u2212]?)?                    # $5, $-5
        (?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?  # 70,000 or 70000, 18.50
           |\.\d+)
    """,
    re.VERBOSE | re.ASCII,
)


def final_number(text: str) -> Decimal | None:
    """The last number of `text`; None where it has none.

    A number is digits, with or without commas between groups of three and a decimal part. A minus before it (the
    hyphen or U+2212, before or after a dollar sign) is its sign, unless a word, a number, a percent sign or a bracket
    ends right before the minus: 10-4 ends with 4. Dollar and percent signs do not count (50% is 50), nor does a full
    stop behind it. All else ends a number: 1/2 ends with 2, 3:45 with 45, 1,2 with 2.
    """
    numbers = _NUMBER.findall(text)
    return Decimal(re.sub("[,$ ]", "", numbers[-1]).replace("\u2212", "-")) if numbers else None


def is_exact(answer: str, reference: str) -> bool:
    """Whether both end with the same number: 18, 18.0 and $18.00 are the same."""
    number = final_number(answer)
    return number is not None and number == final_number(reference)
