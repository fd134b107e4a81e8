"""What nine benchmarks ask and how they score, as lmms-eval 0.7.3 does, quirks included.

One module a benchmark, written afresh from the behaviour of lmms-eval's tasks. Each has:

- ``prompt(row)``: the text of the user turn, of a row of the hub's data set without its image.
- ``question(row)``: the question as the prompt has it, without hint, options and answer format.
- ``answers(row)``: the gold answers, the best first.
- ``score(prediction, row)``: the score of one answer, from 0 to 1.
- ``summary(rows, predictions)``: what lmms-eval reports of a data set, under its names.

They read nothing, and leave the row as it is. White space around a prediction counts for nothing.
Blocks of reasoning (``<think>``), which lmms-eval's command line takes out of a prediction before
its tasks see it, are not taken out here.
"""
