"""One module an embedded model: how it is built and which stages train it.

A module offers `FULL` and `SMOKE`, its two recipes; `build_processor()`; and `run_stages(run,
train_one)`, which trains or loads every stage in order and returns the finished model, or its
like: `train_one(stage)` trains a `studies.nano.loop.Stage` from its checkpoint. Both processes of a
run call it in lockstep. `studies.nano.train.MODELS` names the modules.
"""
