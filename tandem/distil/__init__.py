"""`tandem distil`: makes a small draft for any target, by distilling it on text that the target wrote itself.

The stages, each with a file: `recipe` says what is wanted, `prompts` what is asked, `generation` lets the target
answer, `shards` keeps the answers with the target's distributions, `vocabulary` chooses what the draft can say,
`student` makes the draft from layers of the target, `training` teaches it, `evaluation` measures it, `export` writes
the folder that the draft service loads, `run` does all of it in order and goes on where it was ended.
"""
