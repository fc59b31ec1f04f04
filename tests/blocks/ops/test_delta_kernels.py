"""The table of delta rules: the gate refuses kernels that differ, and documents reach fla's as sequences."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from kernels import Scaled, no_verdicts
from torch import Tensor

from hybridkit.block import Block, Dims
from hybridkit_blocks.gdn import Gdn
from hybridkit_blocks.kda import Kda
from hybridkit_blocks.ops import delta_kernels, fla_kernels
from hybridkit_blocks.ops.delta_rule import chunkwise_delta

DIMS, CPU = Dims(32, 4, 257), torch.device("cpu")
Result = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_verdicts(monkeypatch, tmp_path, "HYBRIDKIT_DELTA", delta_kernels.agrees)


def test_doctor_hears_what_runs_on_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Gdn().kernel("cpu")[0] == Kda().kernel("cpu")[0] == "own"
    for has, name in ((False, "own"), (True, "fla")):
        monkeypatch.setattr(fla_kernels, "has_fla", lambda has=has: has)
        assert Gdn().kernel("cuda")[0] == Kda().kernel("cuda")[0] == name


def test_a_choice_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDKIT_DELTA", "fast")
    with pytest.raises(ValueError, match="HYBRIDKIT_DELTA=fast: it may be own, fla"):
        Gdn().kernel("cpu")
    monkeypatch.setenv("HYBRIDKIT_DELTA", "fla")
    monkeypatch.setattr(fla_kernels, "has_fla", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'hybridkit\[fla\]'"):
        Gdn().kernel("cpu")


def wrong_gradient(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, *rest: Tensor) -> Result:
    return chunkwise_delta(q, k, v, beta, Scaled.apply(g), *rest)


def wrong_output(*given: Tensor) -> Result:
    o, after = chunkwise_delta(*given)
    return o.roll(1, 1), after


def leaky(*given: Tensor) -> Result:
    return chunkwise_delta(*given[:6], None)


def broken(*given: Tensor) -> Result:
    raise RuntimeError("no such instruction")


FAULTS = [
    (wrong_gradient, "dg is off by 0.1"),
    (wrong_output, "o is off by"),
    (leaky, "o is off by"),
    (broken, "no such instruction"),
]


@pytest.mark.parametrize("block", [Gdn(), Kda()], ids=str)
@pytest.mark.parametrize(("rule", "fault"), FAULTS)
def test_a_wrong_kernel_is_refused_aloud_and_the_own_form_runs(
    rule: delta_kernels.DeltaFunction, fault: str, block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced(rule, monkeypatch)
    layer, x = block.build(DIMS), torch.randn(2, 70, 32)
    with pytest.warns(RuntimeWarning, match=fault):
        y = layer(x)[0]
    monkeypatch.setenv("HYBRIDKIT_DELTA", "own")
    assert torch.equal(y, layer(x)[0])


def forced(rule: delta_kernels.DeltaFunction, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another implementation under fla's name."""
    monkeypatch.setitem(delta_kernels.RULES, "fla", rule)
    monkeypatch.setattr(fla_kernels, "has_fla", lambda: True)
    monkeypatch.setenv("HYBRIDKIT_DELTA", "fla")


def test_a_right_kernel_passes_and_float64_keeps_the_exact_form(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []

    def right(*given: Tensor) -> Result:
        ran.append(given)
        return chunkwise_delta(*given)

    forced(right, monkeypatch)
    assert delta_kernels.agrees("fla", CPU, torch.bfloat16, 1, 4, 8)
    ran.clear()
    Gdn().build(DIMS).double()(torch.randn(1, 5, 32, dtype=torch.float64))
    assert not ran
    Gdn().build(DIMS)(torch.randn(1, 5, 32))
    assert ran


def by_sequences(decays: int) -> Callable[..., Result]:
    """A stand-in for the library: each sequence of a row alone, by the own form, from its own state."""

    def run(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, state: Tensor | None, lengths: object) -> Result:
        assert g.shape[-1] == decays
        if not isinstance(lengths, Tensor):
            return chunkwise_delta(q, k, v, beta, g, state)
        assert len(q) == 1 and state is not None and len(state) == len(lengths) - 1
        parts = [slice(a, b) for a, b in zip(lengths[:-1].tolist(), lengths[1:].tolist(), strict=True)]
        found = [
            chunkwise_delta(*(t[:, part] for t in (q, k, v, beta, g)), state[n : n + 1]) for n, part in enumerate(parts)
        ]
        return torch.cat([o for o, _ in found], 1), torch.cat([after for _, after in found])

    return run


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("decays", [1, 6])
def test_documents_and_states_reach_the_library_as_sequences(
    decays: int, packed: bool, carried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_kernels, "_library", by_sequences)
    torch.manual_seed(0)
    shapes = (2, 30, 2, 6), (2, 30, 2, 6), (2, 30, 4, 5), (2, 30, 4), (2, 30, 4, decays), (2, 4, 6, 5)
    q, k, v, beta, g, S = (torch.randn(shape) for shape in shapes)
    leaves = [t.requires_grad_() for t in (q, k, v, beta.sigmoid(), -g.exp(), S)]
    starts = torch.zeros(2, 30, dtype=torch.bool)
    starts[0, 7] = starts[0, 8] = starts[1, 0] = starts[1, 29] = True
    found = []
    for rule in (delta_kernels.RULES["fla"], chunkwise_delta):
        o, after = rule(*leaves[:5], leaves[5] if carried else None, starts if packed else None)
        loss = o.square().sum() + after.square().sum()
        found.append([o, after, *torch.autograd.grad(loss, leaves[: 5 + carried])])
    for ours, right in zip(*found, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-4)  # fp32, chunks cut elsewhere


@pytest.mark.parametrize(
    ("decays", "module", "name"),
    [(1, "gated_delta_rule", "chunk_gated_delta_rule"), (6, "kda", "chunk_kda")],
)
def test_the_library_is_called_with_the_arguments_that_it_has(
    decays: int, module: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and shapes as in flash-linear-attention 0.6: g (B, T, H) for one decay, else (B, T, H, K)."""
    asked: dict[str, object] = {}

    def chunks(
        q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None = None,
        initial_state: Tensor | None = None, output_final_state: bool = False, use_qk_l2norm_in_kernel: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> Result:  # fmt: skip
        asked.update(locals())
        return v, torch.zeros(2, 4, 6, 5)

    fake = ModuleType(f"fla.ops.{module}")
    setattr(fake, name, chunks)
    for parent in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    q, v, beta, g = torch.randn(2, 9, 2, 6), torch.randn(2, 9, 4, 5), torch.rand(2, 9, 4), -torch.rand(2, 9, 4, decays)
    delta_kernels.RULES["fla"](q, q, v, beta, g, None, None)
    assert asked["g"].shape == (g[..., 0] if decays == 1 else g).shape
    assert asked["output_final_state"] and asked["use_qk_l2norm_in_kernel"] and asked["scale"] is None
