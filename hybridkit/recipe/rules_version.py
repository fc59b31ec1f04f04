"""The version of the rules that a run is made by: initial weights, held-out split, tokens.

A recipe alone does not say how a model begins, which text is held out, or where a text is cut into tokens. `train`
always follows the current rules and writes their version to the run's recipe.yaml (`rules`). Whoever reads a run asks
for that version, so that an older run keeps its function, its split and its tokens.

1: the first round; its runs write no version. Tied rows are of unit size and read as they are. Held out is a share of
   the documents, by number. Text may spell special tokens of a tokenizer's own vocabulary; long texts are cut first.
2: tied rows begin small, the last norm too, and are multiplied by sqrt(width) where they are read as input. Held out
   is a share of the text (hybridkit.data.split). No text spells a special token, and a long text has the tokens of the
   whole.
"""

FIRST_RULES = 1  # of a run whose recipe says none
SCALED_TIED_ROWS = 2  # the first with scaled tied rows
CURRENT_RULES = 2
