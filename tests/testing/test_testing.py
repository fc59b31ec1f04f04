"""The shipped laws catch what they are for: one broken block for each law."""

from collections.abc import Callable

import pytest
import torch
from mutants.base import Running, RunningLayer, Sum

from hybridkit import testing
from hybridkit.block import Block, Count, Dims, Layer, TrainStep, Window

DIMS = Dims(width=8, heads=2, vocab=257)


def broken(layer: type[Layer] = RunningLayer, **methods: Callable[..., object]) -> Block:
    """A `Running` block with another layer or other methods."""

    class Broken(Running):
        def build(self, dims: Dims) -> Layer:
            return layer(dims.width)  # type: ignore[call-arg]

    for name, method in methods.items():
        setattr(Broken, name, method)
    return Broken()


class Forgetful(RunningLayer):
    def forward(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        return super().forward(x, None, document_starts=document_starts)


class Peeking(RunningLayer):
    def forward(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        y, state = super().forward(x, state, document_starts=document_starts)
        return y + x.mean(dim=1, keepdim=True), state


class Leaky(RunningLayer):
    def forward(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        return super().forward(x, state)


class Scribbling(RunningLayer):
    def forward(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        y, after = super().forward(x, state, document_starts=document_starts)
        if state is not None:
            state.total.copy_(after.total)
        return y, after


class Wasting(RunningLayer):
    def step(self, x, state):  # type: ignore[no-untyped-def]
        return super().step(2 * x, state)


class Stiff(RunningLayer):
    def forward(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        if x.shape[1] % 4:
            raise RuntimeError("length must be a multiple of 4")
        return super().forward(x, state, document_starts=document_starts)


class Coarse(RunningLayer):
    """Adds up in bf16, a token at a time."""

    def forward(self, x, state=None, *, window=None, document_starts=None):  # type: ignore[no-untyped-def]
        value, sums = self.proj(x).to(x.dtype), list[torch.Tensor]()
        narrow = torch.float64 if x.dtype == torch.float64 else torch.bfloat16
        for token in value.to(narrow).unbind(1):
            sums.append(token if not sums else sums[-1] + token)
        y = torch.stack(sums, 1).to(x.dtype)
        return y, Sum(y[:, -1].clone())


def free(self: Block, dims: Dims, tokens: int, window: int | None = None, count: Count = "exact") -> int:
    return 0


def larger(self, dims, batch, tokens, window=None, *, device=None, dtype=None):  # type: ignore[no-untyped-def]
    return Sum(torch.zeros(batch, 2 * dims.width, device=device, dtype=dtype))


def test_a_right_block_passes() -> None:
    with pytest.warns(testing.UnverifiedCost, match="names no cost_reference"):
        testing.check_block(Running(), DIMS)


@pytest.mark.parametrize(
    ("law", "block", "said"),
    [
        (testing.check_split, broken(Forgetful), "outputs differ for 67 tokens cut at 1"),
        (testing.check_causality, broken(Peeking), "changes an earlier output"),
        (testing.check_documents, broken(Leaky), "packed documents differ from each alone"),
        (testing.check_state, broken(Scribbling), "it modifies the empty state"),
        (testing.check_state, broken(init_state=larger), "are not those of init_state"),
        (testing.check_step, broken(Wasting), "step 0 after a prompt of 0 differs from forward"),
        (testing.check_cost, broken(flops=free), "adds 0 FLOPs"),
    ],
)
def test_a_broken_block_is_caught(law: Callable[[Block, Dims], None], block: Block, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        law(block, DIMS)


def test_sums_of_many_terms_in_bf16_are_caught() -> None:
    """1,000 tokens; a sum in fp32 that is rounded once passes."""
    testing.check_rounding(Running(), DIMS, testing.BF16, tokens=1000)
    with pytest.raises(AssertionError, match="output of 1000 tokens is off by"):
        testing.check_rounding(broken(Coarse), DIMS, testing.BF16, tokens=1000)


def test_a_refusal_names_law_block_and_sizes() -> None:
    with pytest.raises(AssertionError, match=r"(?s)^law of decoder: .*width=8.*step 1 of the decoder for 1 "):
        testing.check_block(broken(Wasting), DIMS)
    with pytest.raises(AssertionError, match="RuntimeError: length must be a multiple of 4"):
        testing.check_block(broken(Stiff), DIMS)


def test_a_length_that_does_not_work_is_caught() -> None:
    with pytest.raises(AssertionError, match=r"^law of lengths: .*RuntimeError: length must be a multiple of 4"):
        testing.check_lengths(broken(Stiff), DIMS)


class Dice(Window):
    """A policy that draws where it should hash."""

    def __call__(self, step: TrainStep, index: int) -> int:
        return int(torch.randint(1, 3, ()))

    @property
    def largest(self) -> int:
        return 2

    def probabilities(self) -> dict[int, float]:
        return {1: 0.5, 2: 0.5}


def test_a_policy_that_draws_is_caught() -> None:
    with pytest.raises(AssertionError, match="differently"):
        testing.check_window(Dice())
