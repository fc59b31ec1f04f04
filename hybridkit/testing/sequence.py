"""Law 1: cutting a sequence changes nothing. A call at once, in parts, token by token, by `step` and by the decoder."""

import itertools

import torch
from torch import Tensor, nn

from hybridkit.block import Block, Dims, State, StepFunction, clone_state, window_of
from hybridkit.testing.layer_under_test import FLOAT64, LONG_CALL, Arithmetic, LayerUnderTest, law, random_starts

CUTS = ([1], [66], [7, 64], [13, 14, 15, 40])  # of 67 tokens
ONE_BY_ONE = list(range(1, 67))
NEAR_CHUNKS = [*range(60, 70), *range(124, 132), *range(252, 262), *range(292, 300)]  # of 300: one by one in places
PROMPTS = (0, 1, 9)  # shorter and longer than the windows that they are tried with
DOCUMENTS = 0.2  # the share of tokens that begin one, where documents are tried; else a long window is seen whole
LONG_CUTS = [1, 130, 257, 258, 600, 1023, 1024]


@law
@torch.no_grad()
def check_split(block: Block, dims: Dims, precision: Arithmetic = FLOAT64) -> None:
    """For any cut, f([a, b]) = f(a), then f(b) from the state after a; outputs and final states."""
    trial, tokens = LayerUnderTest(block, dims, precision), 67
    x, document_starts = trial.input(2, tokens), random_starts(2, tokens)
    x[0, 5] = x[1, 44] = 0  # a padded token is one like others
    x[:, 30:33] *= 300  # and a loud one, too
    for window, marks in ((None, None), *itertools.product(trial.windows, (document_starts,))):
        whole = trial.run(x, window=window, document_starts=marks)
        one_by_one = marks is not None and (window in (2, 16) or not block.has_window)
        for cuts in (*CUTS, ONE_BY_ONE) if one_by_one else CUTS:
            _same_parts(trial, whole, x, cuts, window, marks)
    _long_splits(trial)


def _long_splits(trial: LayerUnderTest) -> None:
    """A fault may appear only late: 300 tokens, one by one where chunks end, and `LONG_CALL` in some parts."""
    for tokens, cuts, windows in ((300, NEAR_CHUNKS, [-1]), (LONG_CALL, LONG_CUTS, [0, -1])):
        x, document_starts = trial.input(2, tokens), random_starts(2, tokens, 0.005)
        for window in dict.fromkeys(trial.some_windows[place] for place in windows):
            _same_parts(
                trial, trial.run(x, window=window, document_starts=document_starts), x, cuts, window, document_starts
            )


def _same_parts(
    trial: LayerUnderTest,
    whole: tuple[Tensor, State],
    x: Tensor,
    cuts: list[int],
    window: int | None,
    document_starts: Tensor | None,
) -> None:
    parts, state = trial.chunked(x, cuts, window, document_starts)
    where = f"for {x.shape[1]} tokens cut at {str(cuts[:4])[1:-1]}{'...' if len(cuts) > 4 else ''}, window {window}"
    trial.same(parts, whole[0], f"outputs differ {where}")
    trial.same_state(state, whole[1], f"the state differs {where}")


@law
def check_step(block: Block, dims: Dims, precision: Arithmetic = FLOAT64) -> None:
    """The same for decoding: `reserve`, then `step` token by token, equals one forward."""
    trial = LayerUnderTest(block, dims, precision)
    for window, prompt in itertools.product(trial.windows, PROMPTS):
        _same_steps(trial, trial.input(2, 26), prompt, window)
    for share in (DOCUMENTS, 0):
        _same_steps(trial, trial.input(3, 290), 250, trial.some_windows[-1], share)


@torch.no_grad()
def _same_steps(trial: LayerUnderTest, x: Tensor, prompt: int, window: int | None, share: float = DOCUMENTS) -> None:
    batch, tokens = x.shape[:2]
    document_starts = random_starts(batch, tokens, share)
    document_starts[:, prompt:] = False  # a step begins no document
    more = trial.input(batch, 5, seed=5)
    whole, _ = trial.run(
        torch.cat([x, more], 1),
        window=window,
        document_starts=torch.cat([document_starts, document_starts[:, :5] & False], 1),
    )
    if prompt:
        state = trial.run(x[:, :prompt], window=window, document_starts=document_starts[:, :prompt])[1]
    else:
        state = trial.empty(batch, 0, window)
    state = trial.layer.reserve(clone_state(state), tokens)
    for t in range(prompt, tokens):
        with trial.precision.on():
            y, state = trial.layer.step(x[:, t : t + 1], state)
        trial.same(y[:, 0], whole[:, t], f"step {t} after a prompt of {prompt} differs from forward, window {window}")
    y, _ = trial.run(more, state, window=window)
    trial.same(y, whole[:, tokens:], f"forward after the steps differs, prompt of {prompt}, window {window}")


@law
@torch.no_grad()
def check_decoder(block: Block, dims: Dims, precision: Arithmetic = FLOAT64) -> None:
    """The same for the decoder: token by token it gives x + layer(norm(x)), for any weight of the norm and any rows;
    without a norm layer(x)."""
    trial = LayerUnderTest(block, dims, precision)
    norm = nn.RMSNorm(dims.width, eps=1e-6, dtype=precision.dtype)
    norm.weight.copy_(torch.linspace(0.5, 2, dims.width))
    for rows, told in ((1, 1), (3, 3), (2, 3)):
        decode = trial.layer.decoder(norm, rows=told)
        for window in trial.windows:
            _same_decoded(trial, norm, decode, trial.input(rows, 26), 1, window)
    many = trial.layer.decoder(norm, rows=9)  # kernels for few rows are others than for many
    _same_decoded(trial, norm, many, trial.input(9, 8), 5, trial.some_windows[0])
    for rows in (1, 3, 9):
        alone = trial.layer.decoder(None, rows)
        _same_decoded(trial, None, alone, trial.input(rows, 26), 1, trial.some_windows[0])
    decode = trial.layer.decoder(norm, rows=2)
    for share in (DOCUMENTS, 0):
        _same_decoded(trial, norm, decode, trial.input(2, 290), 250, trial.some_windows[-1], share)


def _same_decoded(
    trial: LayerUnderTest,
    norm: nn.RMSNorm | None,
    decode: StepFunction,
    x: Tensor,
    prompt: int,
    window: int | None,
    share: float = DOCUMENTS,
) -> None:
    batch, tokens = x.shape[:2]
    document_starts = random_starts(batch, tokens, share)
    document_starts[:, prompt:] = False
    h, given = x if norm is None else norm(x), x.clone()
    whole = trial.run(h, window=window, document_starts=document_starts)[0] + (0 if norm is None else x)
    state = trial.run(h[:, :prompt], window=window, document_starts=document_starts[:, :prompt])[1]
    state = trial.layer.reserve(clone_state(state), tokens)
    for t in range(prompt, tokens):
        with trial.precision.on(), torch.inference_mode():  # as decoding does
            y, state = decode(x[:, t : t + 1], state)
        kind = "" if norm is not None else " without a norm"
        where = f"step {t} of the decoder for {batch} rows{kind} differs from forward, window {window}"
        trial.same(y[:, 0], whole[:, t], where)
    trial.check(torch.equal(x, given), "the decoder changes its input")


@law
def check_windows(block: Block, dims: Dims, precision: Arithmetic = FLOAT64) -> None:
    """A window of w sees w positions, its own included; a carried state takes a smaller one, and no larger one."""
    trial, policy = LayerUnderTest(block, dims, precision), window_of(block)
    if policy is None:
        return
    x = trial.input(2, 60)
    trial.same(trial.run(x, window=60)[0], trial.run(x, window=600)[0], "a window of T is not full attention")
    largest = trial.run(x, window=policy.largest)[0]
    trial.same(trial.run(x)[0], largest, f"without a window it is not the policy's largest, {policy.largest}")
    marks = random_starts(2, 60)
    told, untold = (trial.run(x, window=one, document_starts=marks)[0] for one in (policy.largest, None))
    trial.same(untold, told, f"with documents, it is not the policy's largest without a window, {policy.largest}")
    for window in (1, 16, 200):
        said = f"a window of {window} in a tensor, as policies with many windows give it, is another one"
        trial.same(trial.run(x, window=torch.tensor(window))[0], trial.run(x, window=window)[0], said)
    for tokens, window in ((300, 1), (300, 2), (300, 16), (300, 200), (LONG_CALL, 16), (LONG_CALL, 500)):
        _reach(trial, tokens, window)
    for before in (4, 37):
        _, state = trial.run(x[:, :before], window=16)
        y, smaller = trial.run(x[:, before:], clone_state(state), window=9)
        trial.same(y, trial.run(x, window=9)[0][:, before:], "a smaller window on a carried state")
        _refused(trial, x[:, before:], state, 17)
        _refused(trial, x, smaller, 12)


def _refused(trial: LayerUnderTest, x: Tensor, state: State, window: int) -> None:
    """A larger window than the last one of a state is refused: the state does not hold its tokens."""
    try:
        trial.run(x, state, window=window)
    except ValueError:
        return
    raise AssertionError(trial.say("it accepts a larger window than its state was built with"))


def _reach(trial: LayerUnderTest, tokens: int, window: int) -> None:
    """Token t reaches the outputs t to t + window - 1, and none later."""
    x, t = trial.input(1, tokens), tokens - window - 7
    y = trial.run(x, window=window)[0]
    other = x.clone()
    other[:, : t + 1] = trial.input(1, t + 1, seed=9)
    end = t + window
    later = trial.run(other, window=window)[0][:, end:]
    trial.same(later, y[:, end:], f"a window of {window} sees more positions, {tokens} tokens")
    other = x.clone()
    other[:, t] = 4 * trial.input(1, 1, seed=8)[:, 0]
    seen = trial.run(other, window=window)[0][:, end - 1]
    trial.check(not torch.equal(seen, y[:, end - 1]), f"a window of {window} sees fewer positions, {tokens} tokens")
