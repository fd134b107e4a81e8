"""What is installed, and whether pruning is really active.

`resprune-tune doctor [CONFIG] [--model MODEL] [--budget B] [--image FILE]`. ``environment`` and
``storage`` look at the machine, ``active`` and ``speed`` at a model, ``words`` judges what was
seen, and ``diagnose`` puts all of it together.
"""
