"""The laws of blocks and windows as plain functions: whoever writes a block or a policy runs them too.

    from hybridkit.testing import check_block, check_window
    check_block(MyBlock.read([]), Dims(width=32, heads=4, vocab=257))

Every check raises AssertionError and says what broke. Blocks are checked in float64, where an error is a mistake and
not taste: TOLERANCE leaves three digits over the rounding of some thousand additions of numbers near 1.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hybridkit.block import Block, Dims, Layer, State, Tick, Window, window_of

TOLERANCE = 1e-10
LENGTHS = (1, 7, 63, 65, 1000)


def check_block(block: Block, dims: Dims) -> None:
    """Every law that holds for any block; small dims (width <= 64) make it quick."""
    for check in LAWS:
        check(block, dims)


def check_split(block: Block, dims: Dims, tokens: int = 67) -> None:
    """Law 1: for any cut, f([a, b]) = f(a), then f(b) from the state after a; outputs and final states."""
    layer, x = _built(block, dims), _input(dims, 2, tokens)
    starts = _starts(2, tokens)
    for window, marks in itertools.product(_windows(block), (None, starts)):
        whole, final = layer(x, window=window, starts=marks)
        for cuts in ([1], [tokens - 1], [7, 64], [13, 14, 15, 40], list(range(1, tokens))):
            parts, state = _chunked(layer, x, cuts, window, marks)
            _same(parts, whole, f"outputs of {block} differ when cut at {cuts[:5]}, window {window}")
            _same_state(state, final, f"the state of {block} differs when cut at {cuts[:5]}, window {window}")


def check_step(block: Block, dims: Dims, tokens: int = 40) -> None:
    """Law 1 for the owner of a state: `reserve` then `step`, token by token, equals one forward."""
    layer, x = _built(block, dims), _input(dims, 2, tokens)
    for window, prompt in itertools.product(_windows(block), (1, 9)):
        whole, _ = layer(x, window=window)
        _, state = layer(x[:, :prompt], window=window)
        state = layer.reserve(_clone(state), tokens)
        for t in range(prompt, tokens):
            y, state = layer.step(x[:, t : t + 1], state)
            _same(y[:, 0], whole[:, t], f"step {t} of {block} differs from forward, window {window}")


@torch.no_grad()
def check_decoder(block: Block, dims: Dims, tokens: int = 40) -> None:
    """Law 1 for the decoder: token by token it gives x + layer(norm(x)), for any weight of the norm."""
    layer, x = _built(block, dims), _input(dims, 3, tokens)
    norm = nn.RMSNorm(dims.width, eps=1e-6, dtype=torch.float64)
    norm.weight.uniform_(0.5, 2, generator=torch.Generator().manual_seed(3))
    decode = layer.decoder(norm, rows=3)
    for window in _windows(block):
        whole = x + layer(norm(x), window=window)[0]
        state = layer.reserve(_clone(layer(norm(x[:, :1]), window=window)[1]), tokens)
        for t in range(1, tokens):
            y, state = decode(x[:, t : t + 1], state)
            _same(y[:, 0], whole[:, t], f"step {t} of the decoder of {block} differs from forward, window {window}")


def check_windows(block: Block, dims: Dims, tokens: int = 60) -> None:
    """A window over all tokens is no window at all; a carried state takes a smaller window and refuses a larger one."""
    if window_of(block) is None:
        return
    layer, x = _built(block, dims), _input(dims, 2, tokens)
    _same(layer(x, window=tokens)[0], layer(x, window=10 * tokens)[0], f"{block}: a window of T is not full attention")
    for before in (4, 37):
        _, state = layer(x[:, :before], window=16)
        y, _ = layer(x[:, before:], state, window=9)
        _same(y, layer(x, window=9)[0][:, before:], f"{block}: a smaller window on a carried state")
        try:
            layer(x[:, before:], state, window=17)
        except ValueError:
            continue
        raise AssertionError(f"{block} accepts a larger window than its state was built with")


def check_causality(block: Block, dims: Dims, tokens: int = 50) -> None:
    """Law 2: changing token t changes no output before t, not by one bit of rounding's worth."""
    layer, x = _built(block, dims), _input(dims, 1, tokens)
    for window, t in itertools.product(_windows(block), (1, 17, tokens - 1)):
        other = x.clone()
        other[:, t] += 1
        before, after = layer(x, window=window)[0], layer(other, window=window)[0]
        _same(after[:, :t], before[:, :t], f"token {t} of {block} changes an earlier output, window {window}")
        assert not torch.equal(after[:, t], before[:, t]), f"token {t} of {block} does not reach its own output"


def check_documents(block: Block, dims: Dims) -> None:
    """Law 3: packed documents give what each gives alone, also when a state is carried over from another one."""
    layer, lengths = _built(block, dims), (9, 1, 30, 70, 5)
    documents = [_input(dims, 1, length, seed=length) for length in lengths]
    packed = torch.cat(documents, dim=1)
    starts = torch.zeros(packed.shape[:2], dtype=torch.bool)
    starts[:, [0, *itertools.accumulate(lengths[:-1])]] = True
    earlier = _input(dims, 1, 20, seed=99)
    for window in _windows(block):
        alone = torch.cat([layer(x, window=window)[0] for x in documents], dim=1)
        _same(
            layer(packed, window=window, starts=starts)[0], alone, f"{block} leaks between documents, window {window}"
        )
        _, state = layer(earlier, window=window)
        after, _ = layer(packed, state, window=window, starts=starts)
        _same(after, alone, f"{block} sees an earlier document through its state, window {window}")


def check_state(block: Block, dims: Dims) -> None:
    """Law 4: bytes held are those of `init_state`; a state passed in is not modified; an empty one changes nothing."""
    layer, x = _built(block, dims), _input(dims, 2, 90)
    for window in _windows(block):
        empty = block.init_state(dims, 2, 0, window, dtype=torch.float64)
        for tokens in (1, 8, 33, 90):
            y, state = layer(x[:, :tokens], window=window)
            room = block.init_state(dims, 2, tokens, window, dtype=torch.float64)
            assert state_bytes(state) == state_bytes(room), (
                f"{block} holds other bytes than init_state says, {tokens} tokens"
            )
            assert [t.shape for t in state] == [t.shape for t in room], f"{block}: state shapes differ from init_state"
            for fresh in (empty, room):
                _same(layer(x[:, :tokens], fresh, window=window)[0], y, f"{block}: an empty state changes the output")
        kept = _clone(state)
        layer(x, state, window=window)
        assert all(map(torch.equal, state, kept)), f"{block} modifies the state that it is given"
        on_meta = block.init_state(dims, 2, 90, window, device="meta", dtype=torch.float64)
        assert state_bytes(on_meta) == state_bytes(state), f"{block}: another size on the meta device"


def check_cost(block: Block, dims: Dims, tokens: int = 48) -> None:
    """Law 5, its general part: linear layers cost what torch's counter sees; mixing comes on top, for mixers alone."""
    linear = linear_flops(_built(block, dims), dims, tokens)
    for window in _windows(block):
        exact = block.flops(dims, tokens, window)
        assert isinstance(exact, int), f"{block}: FLOPs are whole numbers"
        assert exact > linear if block.mixes else exact == linear, f"{block}: {exact} FLOPs, {linear} of linear layers"
        assert block.flops(dims, tokens, window, "hardware") >= exact, (
            f"{block}: no kernel executes less than the exact count"
        )
        assert block.flops(dims, tokens, window, "paper") > 0, f"{block}: no paper count"


def check_lengths(block: Block, dims: Dims) -> None:
    """Law 6: any length and batch; gradients reach every input and parameter, and are finite."""
    layer = _built(block, dims)
    for tokens, batch in itertools.product(LENGTHS, (1, 3)):
        x = _input(dims, batch, tokens).requires_grad_()
        y, _ = layer(x, starts=_starts(batch, tokens))
        assert y.shape == x.shape and y.dtype == x.dtype, f"{block}: output {tuple(y.shape)} {y.dtype}"
        grads = torch.autograd.grad((y * torch.randn_like(y)).sum(), [x, *layer.parameters()])
        assert all(torch.isfinite(grad).all() for grad in grads), f"{block}: gradient not finite at {tokens} tokens"


def check_window(window: Window, total_steps: int = 1000) -> None:
    """A policy is pure, stays within its shares, keeps them over a run, and gives `largest` outside training."""
    ticks = [Tick(seed, step, total_steps) for seed in range(20) for step in range(total_steps)]
    drawn = [window(tick, 0) for tick in ticks]
    assert drawn == [window(tick, 0) for tick in ticks], f"{window} answers differently the second time"
    shares = window.shares()
    assert abs(sum(shares.values()) - 1) < 1e-9, f"the shares of {window} do not add up to 1"
    assert set(drawn) <= set(shares) and max(shares) == window.largest, f"{window} leaves the windows of its shares"
    for value, share in shares.items():
        # Five standard deviations of a binomial share, and one step's rounding of a boundary.
        error = abs(drawn.count(value) / len(drawn) - share)
        assert error <= 5 * (share * (1 - share) / len(drawn)) ** 0.5 + 1 / total_steps, f"{window}: share of {value}"
    assert window(Tick(0, 0, total_steps, training=False), 0) == window.largest, (
        f"{window} is not largest outside training"
    )


LAWS = (
    check_split,
    check_step,
    check_decoder,
    check_windows,
    check_causality,
    check_documents,
    check_state,
    check_cost,
    check_lengths,
)


def linear_flops(layer: Layer, dims: Dims, tokens: int) -> int:
    """FLOPs of the layer's nn.Linear modules over one sequence, as torch's counter sees them on the meta device."""
    total = 0
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                module.to("meta")(torch.empty(tokens, module.in_features, device="meta", dtype=module.weight.dtype))
            total += counter.get_total_flops()
    return total


def mask_pairs(tokens: int, window: int | None) -> int:
    """Query-key pairs of a causal window, counted one by one."""
    return sum(0 <= q - k < (window or tokens) for q in range(tokens) for k in range(tokens))


def state_bytes(state: State) -> int:
    """Bytes of every tensor of a state."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state)


def _built(block: Block, dims: Dims) -> Layer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = block.build(dims).to(torch.float64)
        for parameter in layer.parameters():  # no gate closed, no weight zero: every path carries a signal
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return layer


def _input(dims: Dims, batch: int, tokens: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, tokens, dims.width, dtype=torch.float64, generator=generator)


def _starts(batch: int, tokens: int) -> Tensor:
    return torch.rand(batch, tokens, generator=torch.Generator().manual_seed(2)) < 0.1


def _windows(block: Block) -> Sequence[int | None]:
    policy = window_of(block)
    return (None, 1, 2, 16, 200) if policy else (None,)


def _chunked(
    layer: Layer, x: Tensor, cuts: Sequence[int], window: int | None, starts: Tensor | None
) -> tuple[Tensor, State | None]:
    outputs, state = [], None
    for begin, end in itertools.pairwise([0, *cuts, x.shape[1]]):
        marks = None if starts is None else starts[:, begin:end]
        y, state = layer(x[:, begin:end], state, window=window, starts=marks)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def _clone(state: State) -> State:
    return type(state)(*(tensor.clone() for tensor in state)) if state else state


def _same(a: Tensor, b: Tensor, message: str) -> None:
    torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE, msg=_saying(message))


def _saying(message: str) -> Callable[[str], str]:
    return lambda details: f"{message}\n{details}"


def _same_state(a: State | None, b: State, message: str) -> None:
    assert a is not None and type(a) is type(b), message
    for left, right in zip(a, b, strict=True):
        _same(left, right, message)
