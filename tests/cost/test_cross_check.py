"""`flops --verify`: every block that ships gets through both counters, and a block that does not is no traceback."""

from pathlib import Path
from typing import Any

import pytest
from forked import COMMAND_LINE, forked
from project import ROOT

from hybridkit.cost import cross_check
from hybridkit.model.config import ModelConfig
from hybridkit.model.plan import Plan, compile_pattern
from hybridkit.registry.registry import Registry

KINDS = sorted(path.stem for path in (ROOT / "blocks").glob("[!_]*.py"))
WRITTEN = {"swa": "swa:6", "moe": "[sa, moe(6,3,8,groups=2,active_groups=1)]", "ffn": "[sa, ffn(width=16)]"}
NARROW = '''"""At most 64 wide, of even width, and it asks for its input's numbers."""
from typing import Any
import torch
from torch import Tensor, nn
from hybridkit.block import Block, Dims, Layer, State
class Narrow(Block):
    differentiable_state = True
    def flops(self, dims: Dims, tokens: int, window: Any = None, count: Any = "exact") -> int:
        return 2 * tokens * dims.width**2
    def init_state(self, dims: Dims, *given: Any, **more: Any) -> State:
        return ()
    def build(self, dims: Dims) -> Layer:
        if dims.width > 64 or dims.width % 2:
            raise ValueError("too wide")
        return NarrowLayer(dims.width)
class NarrowLayer(Layer):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, width))
    def forward(self, x: Tensor, state: Any = None, *, window: Any = None, document_starts: Any = None) -> Any:
        if torch.jit.is_tracing():
            raise RuntimeError("no trace")
        return x @ self.weight, ()
'''


def described(pattern: str, width: int = 32, registry: Registry | None = None) -> Plan:
    given: dict[str, Any] = {"registry": registry} if registry else {}
    return compile_pattern(pattern, ModelConfig(width, 2, 257), **given)


@pytest.mark.parametrize("kind", KINDS)
def test_both_counters_follow_every_block(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fvcore sees no more than there is; torch sees all linear layers, at this width more than half of each block."""
    monkeypatch.setattr(cross_check, "WIDTH", 32)
    for row in cross_check.verify(described(WRITTEN.get(kind, kind))):
        assert row.fvcore is not None and 0 < row.fvcore <= row.hardware
        assert row.torch > 0.5 * row.exact


def test_a_block_that_only_few_widths_suit_and_no_trace(tmp_path: Path) -> None:
    (tmp_path / "narrow.py").write_text(NARROW)
    registry = Registry((tmp_path / "narrow.py",))
    rows = cross_check.verify(described("[narrow, sa]", 48, registry))
    assert rows[0].fvcore is None and all(row.fvcore for row in rows[1:])
    assert rows[0].exact == rows[0].torch == 2 * cross_check.TOKENS * 48**2
    (tmp_path / "r.yaml").write_text("pattern: [narrow, sa]\nmodel: {width: 64, heads: 2}\n")
    words = ["--plugin", str(tmp_path / "narrow.py"), str(tmp_path / "r.yaml")]
    done = forked(COMMAND_LINE, "flops", *words, "--verify", cwd=tmp_path)
    assert done.returncode == 0 and " - " in done.stdout
    done = forked(COMMAND_LINE, "flops", "quickstart", *words, "--match", "flops", cwd=tmp_path)
    found = [line for line in done.stdout.splitlines() if line.startswith("#   ")]
    assert done.returncode == 0 and len(found) == 2 and "its unit" in " ".join(found)
