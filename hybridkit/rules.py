"""The version of the rules that a run is made by: initial weights, held-out split, tokens.

A recipe alone does not say how a model begins, which text is held out, or where a text is cut into tokens. `train`
always follows the current rules and writes their version to the run's recipe.yaml (`rules`). Whoever reads a run asks
for that version, so that an older run keeps its function, its split and its tokens.

1: the first round; its runs write no version. Tied rows begin at unit size and are read as they are.
2: tied rows begin small, the last norm too, and are multiplied by sqrt(width) where they are read as input.
"""

FIRST = 1  # of a run whose recipe says none
SCALED = 2  # the first with scaled tied rows
CURRENT = 2
