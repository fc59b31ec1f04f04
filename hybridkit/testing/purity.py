"""A layer depends on its input, its state and its weights, and on nothing else."""

import random
from collections.abc import Callable

import torch
from torch import Tensor

from hybridkit.block import Block, Dims, State, clone_state, state_like
from hybridkit.testing.layer_under_test import FLOAT64, Arithmetic, LayerUnderTest, law, random_starts


@law
def check_purity(block: Block, dims: Dims, precision: Arithmetic = FLOAT64) -> None:
    """Not on earlier calls, random generators, train or eval mode, gradient mode, or the layout of memory.

    It modifies no input, weight or buffer, draws nothing, and holds in its `state_dict` all that decides its output.
    """
    trial = LayerUnderTest(block, dims, precision)
    for tokens in (1, 40, 200):
        x, document_starts = trial.input(2, tokens), random_starts(2, tokens, 0.05)
        _, state = trial.run(trial.input(2, 12, seed=3))
        state = state_like(state, [tensor.detach() for tensor in state])
        _leaves_alone(trial, x, state, document_starts)
        _same_again(trial, x, state, document_starts)
    _same_weights(trial)
    _draws(trial)
    _on_meta(trial)


def _leaves_alone(trial: LayerUnderTest, x: Tensor, state: State, document_starts: Tensor) -> None:
    own = {**trial.layer.state_dict(), **dict(trial.layer.named_buffers())}
    held = {name: tensor.clone() for name, tensor in own.items()}
    given, marks, generator, numbers = x.clone(), document_starts.clone(), torch.get_rng_state(), random.getstate()
    for training in (True, False):
        trial.layer.train(training)
        trial.run(x, clone_state(state), document_starts=document_starts)
        said = f"a call of {x.shape[1]} tokens modifies"
        trial.check(torch.equal(x, given), f"{said} its input")
        trial.check(torch.equal(document_starts, marks), f"{said} the marks of documents")
        for name, tensor in {**trial.layer.state_dict(), **dict(trial.layer.named_buffers())}.items():
            trial.check(name in held and torch.equal(tensor, held[name]), f"{said} its own {name}")
    trial.layer.train()
    drawn = not torch.equal(torch.get_rng_state(), generator) or random.getstate() != numbers
    trial.check(not drawn, "a call draws from a global random generator")


def _same_again(trial: LayerUnderTest, x: Tensor, state: State, document_starts: Tensor) -> None:
    """The same call in other circumstances."""
    right, left = trial.run(x, state, document_starts=document_starts)

    def same(what: str, call: Callable[[], tuple[Tensor, State]]) -> None:
        y, after = call()
        trial.same(y, right, f"{what} gives another output, {x.shape[1]} tokens")
        trial.same_state(after, left, f"{what} gives another state, {x.shape[1]} tokens")

    def again() -> tuple[Tensor, State]:
        return trial.run(x, state, document_starts=document_starts)

    def seeded() -> tuple[Tensor, State]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(12345)
            return again()

    def evaluated() -> tuple[Tensor, State]:
        trial.layer.eval()
        try:
            return again()
        finally:
            trial.layer.train()

    trial.run(trial.input(3, 17, seed=8))
    same("a call after others", again)
    same("another random seed", seeded)
    same("eval()", evaluated)
    same("torch.no_grad", torch.no_grad()(again))
    same(
        "an input that wants a gradient",
        lambda: trial.run(x.clone().requires_grad_(), state, document_starts=document_starts),
    )
    loose, marks = (t.transpose(0, 1).contiguous().transpose(0, 1) for t in (x, document_starts))
    held = state_like(state, [_strided(tensor) for tensor in state])
    same("memory that is not contiguous", lambda: trial.run(loose, held, document_starts=marks))
    same("a slice of a wider tensor", lambda: trial.run(_strided(x), state, document_starts=_strided(document_starts)))


def _strided(x: Tensor) -> Tensor:
    """The same values, every other one of a larger tensor's last dimension."""
    return torch.stack([x, x], -1)[..., 0]


def _same_weights(trial: LayerUnderTest) -> None:
    """A second layer that is given the first one's `state_dict` is the same function."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)
        other = LayerUnderTest(trial.block, trial.dims, trial.precision)
        other.layer = trial.block.build(trial.dims).to(trial.precision.dtype)
    other.layer.load_state_dict(trial.layer.state_dict())
    x = trial.input(2, 30)
    said = "a layer with the same state_dict gives another output: something that decides it is not in there"
    trial.same(other.run(x)[0], trial.run(x)[0], said)
    own, others = ({t.data_ptr() for t in one.layer.state_dict().values() if t.numel()} for one in (trial, other))
    trial.check(not own & others, "two layers share their weights")
    foreign = set(map(id, trial.layer.no_weight_decay())) - set(map(id, trial.layer.modules()))
    trial.check(not foreign, "no_weight_decay names a module that is none of the layer's")


def _draws(trial: LayerUnderTest) -> None:
    """Building takes weights from torch's generator, and sets no generator."""
    left = []
    with torch.random.fork_rng(devices=[]):
        numbers = random.getstate()
        for seed in (77, 78):
            torch.manual_seed(seed)
            trial.block.build(trial.dims)
            left.append(torch.get_rng_state())
        trial.check(not torch.equal(*left), "building it seeds torch's generator, so that all layers begin alike")
        trial.check(random.getstate() == numbers, "building it draws from Python's generator, which no seed sets")


def _on_meta(trial: LayerUnderTest) -> None:
    """It builds on the meta device, where parameters are counted."""
    with torch.device("meta"):
        layer = trial.block.build(trial.dims)
    tensors = dict(layer.named_parameters())
    trial.check(all(tensor.is_meta for tensor in tensors.values()), "it builds weights off the default device")
    shapes = {name: tensor.shape for name, tensor in trial.layer.named_parameters()}
    trial.check({n: t.shape for n, t in tensors.items()} == shapes, "it builds other weights on the meta device")
