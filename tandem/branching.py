"""The sampling chain along the paths of a tree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tandem.penalties import History
from tandem.sampling import SamplingChain, log_probs_batch
from tandem.trees import Tree


def tree_log_probs(
    chain: SamplingChain, logits: Tensor, history: History, token_ids: Sequence[int], tree: Tree
) -> Tensor:
    """As `SamplingChain.log_probs` of a tree: fp32 [n + 1, V], after the text and after each candidate; rows that are
    no distribution are NaN.

    logits: [n + 1, V or more] in that order. history: of the text before the tree. For chains that look at the text,
    but not for those that follow one text; each row then has a history of its own.
    """
    histories = [history]
    for index in range(len(tree)):
        own = history.fork(len(history.generated))
        own.extend(token_ids[at] for at in tree.path(index))
        histories.append(own)
    rows = range(len(tree) + 1)
    parts = [logits[at : at + 1] for at in rows]
    return torch.cat(log_probs_batch([chain] * len(rows), parts, histories, [()] * len(rows)))
