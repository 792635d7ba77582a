"""One model over several processes, each with a part of its weights and of its key-value cache (tensor parallel).

Rank 0 serves: it has the scheduler, the engine and the sampling, and tells the others each step before it runs it
(`leader.py`). The others run the same step on their own part (`follower.py`), so that the collectives inside the
forward pass meet. The narrow place between the two is one message a step (`message.py`): which tokens, where their
sequences lie in the cache, whose logits are wanted, and which entries are copied before. A follower keeps no other
state.
"""
