"""Pieces of text that fuzz_cases.py puts into its inputs: words of recipes and manifests, and what breaks readers.

Used by `python tools/stress/fuzz.py`.
"""

WORDS = b"""
pattern: model: data: train: extends: width heads ffn swa mlstm sa stoch fixed uniform schedule null true 0 -1 5 1e999
9999999999999999999999 .5 1k 1M NaN Infinity [ ] { } ( ) , : * = & ! | > ' " \\ # - ? % step-1 "step": "loss": "files":
"sha256": "../../x" "/etc/passwd" "\\ud800" !!python/object &a
"""
BREAKS = b"\n|  |\t|\r\n|\0|\xff|\xed\xa0\x80|\xe2\x80\xa8|&a [*a]|a: |- "
TOKENS = [*WORDS.split(), *BREAKS.split(b"|"), b"1" * 400]
