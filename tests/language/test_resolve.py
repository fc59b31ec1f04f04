"""A call to an entry: what it builds, and where the caret stands when a name or an argument is wrong."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridkit.block import Block, Entry, window_of
from hybridkit.language.parser import parse_pattern
from hybridkit.language.pattern_source import PatternError, PatternSource, SourceLine
from hybridkit.language.resolve import resolve, resolve_pattern
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit_blocks.swa import SlidingWindowAttention
from hybridkit_blocks.windows.stoch import Stoch


def block_of(text: str, registry: Registry = REGISTRY) -> Block:
    return resolve(parse_pattern(text)[0], registry, text).block


def test_the_colon_fills_the_window_and_arguments_the_fields() -> None:
    block = block_of("swa(kv_heads=2, theta=null):stoch(128,2048,p=.75)")
    policy = Stoch(short=128, long=2048, p=0.75)
    assert block == SlidingWindowAttention(kv_heads=2, theta=None, window=policy) and window_of(block) == policy
    assert block_of("swa:128") == block_of("swa:fixed(128)") == block_of("swa:fixed(window=128)")
    assert block_of("mlstm") == REGISTRY.block("mlstm")() and window_of(block_of("mlstm")) is None


@pytest.mark.parametrize(
    "text",
    [
        "sa",
        "swa:128",
        "mlstm(heads=8)",
        "ffn(width=5461)",
        "swa(kv_heads=4):stoch(128,2048)",
        "swa:stoch(1,2,p=.75,until=.9,scope=layer)",
        "swa:schedule(0=128,.5=512,.9=2048)",
        "sa(theta=null)",
        "swa:uniform(1,9,step=2)",
    ],
)
def test_an_entry_says_itself_back(text: str) -> None:
    block = block_of(text)
    assert str(block) == text
    assert block_of(str(block)) == block


# Each with bars around the place that the carets have to mark, and words that the message has to hold.
@pytest.mark.parametrize(
    ("marked", "said"),
    [
        ("|mlsm|", "unknown block `mlsm`; did you mean `mlstm`?"),
        ("|MLSTM|", "did you mean `mlstm`?"),
        ("|nothing_like_it|", "known: "),
        ("|stoch|(1,2)", "`stoch` is a window policy"),
        ("swa:|stch|(1,2)", "unknown window policy `stch`; did you mean `stoch`?"),
        ("swa:|sa|", "`sa` is a block, not a window policy"),
        ("|swa|", "swa needs a window: swa:128"),
        ("mlstm:|128|", "mlstm has no window"),
        ("mlstm:|stoch|(1,2)", "mlstm has no window"),
        ("swa:|0|", "`window` should be greater than or equal to 1, not 0"),
        ("swa:|-5|", "greater than or equal to 1"),
        ("swa:|1.5|", "`window` should be a whole number, not 1.5"),
        ("swa:fixed(|null|)", "a whole number, not null"),
        ("swa:stoch(128,2048,|p=1.5|)", "`p` should be less than or equal to 1, not 1.5"),
        ("swa:stoch(128,2048,|1.5|)", "`p` should be less than or equal to 1"),
        ("swa:stoch(2048,|128|,p=.5)", "the short window comes first: stoch(128,2048)"),
        ("swa:|stoch|(128)", "stoch needs `long`"),
        ("swa:stoch(|shrt=1|,long=2)", "stoch has no argument `shrt`; it takes short, long, p, until, scope; did you"),
        ("swa:stoch(1,2,|short=3|)", "short is given twice"),
        ("swa:stoch(1,2,.5,1,batch,|7|)", "stoch takes at most 5 arguments"),
        ("swa:stoch(1,2,|scope=laye|)", "'batch' or 'layer'"),
        ("swa:schedule(0=1,|.5=2.5|)", "a whole number, not 2.5"),
        ("swa:schedule(|.1=1|,.5=2)", "the first fraction should be 0"),
        ("swa:schedule(0=1,.5=2,|.4=3|)", "fractions should rise"),
        ("swa(|heds=3|):128", "did you mean `heads`?"),
        ("sa(|window=3|)", "sa has no argument `window`"),
        ("sa(|heads=four|)", "`heads` should be a whole number"),
        (
            "sa(|scaling=yran|,factor=2)",
            "`scaling` should be 'linear', 'yarn' or 'llama3', not \"yran\"; did you mean `yarn`",
        ),
        ("sa(|bias=in|)", "`bias` should be true or false or 'qkv' or 'out', not \"in\""),
        ("mlstm(|3=4|)", "mlstm has no argument `3`"),
    ],
)
def test_mistakes_are_pointed_at(marked: str, said: str) -> None:
    before, wrong, after = marked.split("|")
    with pytest.raises(PatternError) as raised:
        block_of(before + wrong + after)
    message, drawn, carets = str(raised.value).split("\n")
    assert said in message
    assert (drawn, carets) == (f"  {before}{wrong}{after}", f"  {' ' * len(before)}{'^' * len(wrong)}")


def test_values_that_python_calls_equal_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "tagged.py").write_text(
        "from hybridkit.block import Block\n"
        "class Tagged(Block):\n"
        "    tag: bool | int | str\n"
        "    def build(self, dims): ...\n"
        "    def flops(self, dims, tokens, window=None, count='exact'): ...\n"
    )
    registry = Registry((tmp_path / "tagged.py",))
    texts = ["tagged(1)", "tagged(true)", 'tagged("1")', 'tagged("true")']
    assert [str(block_of(text, registry)) for text in texts] == texts


def test_a_mistake_in_a_file_is_pointed_at_there() -> None:
    source = PatternSource("r.yaml", (SourceLine(3, 10, "pattern: [sa, # all"), SourceLine(4, 3, "  mlsm]")))
    text = "[sa,\nmlsm]"
    with pytest.raises(PatternError, match=r"r\.yaml:4:3: unknown block"):
        resolve(parse_pattern(text, source)[1], REGISTRY, text, source)


ELEMENTS = ["sa", "swa:8", "swa(kv_heads=2) : stoch(8, 16,p=.5)", "swa:8 | mlstm", "mlstm*3"]
OTHERS = ["[sa, swa:8]*2", 'sa("x")', ""]
TIMES = ["", "*2", " * 3 ", "*0", "*1.5", "*9999"]


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.sampled_from(ELEMENTS + OTHERS), max_size=6), st.sampled_from(TIMES))
def test_lists_of_known_elements_are_read_as_the_parser_reads_them(elements: list[str], times: str) -> None:
    text, registry = f" [{', '.join(elements)}]{times}", Registry()
    for known in ELEMENTS:
        resolve_pattern(f"[{known}]", registry)
    read: list[object] = []
    for reader in (resolve_pattern, resolve_each):
        try:
            read.append(reader(text, registry))
        except PatternError as error:
            read.append(str(error))
    assert read[0] == read[1]


def resolve_each(text: str, registry: Registry) -> tuple[Entry, ...]:
    return tuple(resolve(call, registry, text) for call in parse_pattern(text))


def test_the_limits_of_a_pattern_hold_for_lists_of_known_elements() -> None:
    registry = Registry()
    assert len(resolve_pattern("[sa, sa | sa]", registry)) == 2
    assert len(resolve_pattern("[sa]*4096", registry)) == 4096
    for many in ("[sa, sa | sa]*1366", "[sa]*4097"):
        with pytest.raises(PatternError, match="at most 4096 entries"):
            resolve_pattern(many, registry)


@pytest.mark.parametrize(
    "text", ["sa(theta=1e13)", "sa(theta=1099511627777.)", "sa:fixed(all)", "sa:fixed(window=all)"]
)
def test_extreme_values_print_as_what_reads_back(text: str) -> None:
    block = block_of(text)
    assert block_of(str(block)) == block


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sa(theta=500, 2)", "2 stands after an argument with a name"),
        ("swa:stoch(p=.25,8,16)", "8 stands after an argument with a name"),
        ("swa:cycle(8,64,all)", "`period` should be a whole number"),
        ("sa:uniform(8,64,all)", "`step` should be a whole number"),
        ("sa:uniform(all,64)", "`low` should be a whole number"),
        ("sa:fixed(4611686018427387904)", "should be at most"),
        ("sa:all", "sa:fixed(all), or sa alone"),
    ],
)
def test_what_looks_like_another_argument_is_refused(text: str, said: str) -> None:
    with pytest.raises(PatternError) as refused:
        block_of(text)
    assert said in str(refused.value)
