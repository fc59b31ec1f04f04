"""Names that somebody could give to a run, a recipe, an arm or a file, and what must not come out of them."""

HOSTILE = (
    "a[lr=1e-3]",
    "a[lr=3e-3]",
    "a[b",
    "a[-b]",  # with a slash it would be two folders
    "[bold red]x[[]",
    ":smile:",
    "a$b^{$",
    "_x",
    "__",
    "a\x1b[31mred",
    "a\x9b31mred",
    "a\x1b]0;title\x07",
    "a\u202egnp.exe",
    "a\u2028b",
    "a\nhybridkit: all is well",
    "a\r\tb",
    "<script>alert(1)<",
    "&lt;b&gt;",
    "a|b|`c`",
    "![x](y)",
    "*a* _b_ ~~c~~",
    "%s{0}{x}",
    "-dash",
    " spaces ",
    "日本語😀",
    "v1.2",
    "v1.3",
    "n" * 200,
    "\udcff\udcfe",
)


def raw_controls(text: str) -> str:
    """The characters of what was printed or written that a terminal would obey; line ends and tabs aside."""
    return "".join(c for c in text if (ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2028") and c not in "\n\t")
