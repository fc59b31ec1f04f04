"""A teacher's weights in a student: the same function where the mixers are the same, and each rule's own otherwise."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import hybridkit as hk
from hybridkit.convert.mapping import MappedLayer, map_weights
from hybridkit.model.model import Model
from hybridkit.system.errors import UserError

WIDTH, TOKENS = 32, 12


def built(pattern: str, seed: int = 0, **model: object) -> Model:
    """A model in float64 with random weights, biases and norms included."""
    torch.manual_seed(seed)
    made = hk.build(pattern, width=WIDTH, vocab=40, **model).double()
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    return made


def tokens() -> Tensor:
    return torch.randint(0, 40, (2, TOKENS), generator=torch.Generator().manual_seed(3))


def mapped(teacher: Model, pattern: str, **model: object) -> tuple[Model, list[MappedLayer]]:
    student = built(pattern, seed=1, **model)
    return student, [layer for layer in map_weights(teacher, student) if layer.student != "ffn"]


@pytest.mark.parametrize(
    "pattern", ["[sa(kv_heads=2), [swa:4 | mlstm]]", "[gdn, mamba2, kda]", "[rglru, moe(3,1,8,correction=.1)]"]
)
@pytest.mark.parametrize("model", [{}, {"tie": True, "logit_cap": 3.0, "norm": "both", "branches": "mean_norm"}])
def test_a_student_that_keeps_everything_gives_the_same_bits(pattern: str, model: dict[str, object]) -> None:
    teacher = built(pattern, **model)
    student, layers = mapped(teacher, pattern, **model)
    assert torch.equal(student(tokens())[0], teacher(tokens())[0])
    assert all(layer.how == "kept" and not (layer.new or layer.left) for layer in layers)


def test_arguments_that_only_new_layers_have_make_no_other_layer() -> None:
    teacher = built("[mlstm(igate_bias=-3), gdn(start=qwen)]")
    student, layers = mapped(teacher, "[mlstm, gdn]")
    assert [layer.how for layer in layers] == ["kept", "kept"]
    assert torch.equal(student(tokens())[0], teacher(tokens())[0])


EXACT = [
    ("sa", "swa:12"),
    ("sa", "swa:stoch(12,64)"),
    ("swa:5", "sa:5"),
    ("sa(kv_heads=2,qk_norm=true)", "swa(qk_norm=true):32"),
    ("sa(kv_heads=2,qk_norm=projection,bias=true)", "swa(qk_norm=projection,bias=true):32"),
    ("sa(head=6,theta=500000,rope=.5,gate=true,sinks=true,softcap=3,scale=.2)",
     "swa(head=6,theta=500000,rope=.5,gate=true,sinks=true,softcap=3,scale=.2):12"),
    ("sa(in_scale=2,out_scale=3)", "swa(in_scale=.5,out_scale=.25):12"),
    ("sa", "[swa:12 | sa(out_scale=2)]"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), EXACT)
def test_another_attention_that_sees_as_much_is_the_same_function(old: str, new: str) -> None:
    teacher = built(f"[{old}]*2")
    student, layers = mapped(teacher, f"[{new}]*2")
    assert {layer.how for layer in layers} == {"mapped"} and not any(layer.new or layer.left for layer in layers)
    # Another order of summation and another kernel: some roundings of float64.
    torch.testing.assert_close(student(tokens())[0], teacher(tokens())[0], rtol=1e-9, atol=1e-9)


def heads_of(teacher: Model, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The teacher's q, k and v without positions (B, 4, T, 8), key-value heads repeated by their definition."""
    layer = teacher.layers[0].layer
    q, k, v = (
        F.linear(x, weight.weight).unflatten(-1, (-1, 8)).transpose(1, 2) for weight in (layer.q, layer.k, layer.v)
    )
    groups = [head // (4 // k.shape[1]) for head in range(4)]
    return q, k[:, groups], v[:, groups]


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Sum over s <= t of (q_t . k_s) v_s, as a mask of products: (B, T, H, E)."""
    return ((q @ k.mT).tril() @ v).transpose(1, 2)


def mixer_case(pattern: str, teacher: str = "sa(kv_heads=2)") -> tuple[Model, torch.nn.Module, Tensor]:
    source = built(teacher)
    student, _ = mapped(source, pattern)
    x = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return source, student.layers[0].layer, x


def test_an_mlstm_with_open_gates_is_linear_attention_over_every_second_channel() -> None:
    teacher, layer, x = mixer_case("mlstm")
    for gate in (layer.igate, layer.fgate):
        torch.nn.init.zeros_(gate.weight)
    torch.nn.init.zeros_(layer.igate.bias)
    torch.nn.init.constant_(layer.fgate.bias, 1e4)  # capped at 15: a token keeps sigmoid(15), as below
    half = [0, 2, 4, 6]  # of 8 channels in pairs (0, 4), (1, 5), (2, 6), (3, 7)
    q, k, v = heads_of(teacher, x)
    q, k = q[..., half] * 4**-0.5, k[..., half]
    ages = torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)
    kept = torch.sigmoid(torch.tensor(15.0, dtype=torch.float64)) ** ages.clamp(min=0)
    weights = (q @ k.mT).tril() * kept
    h = (weights @ v) / weights.sum(-1, keepdim=True).abs().clamp(min=1)
    y = F.layer_norm(h.transpose(1, 2), (8,), eps=1e-6).flatten(-2) * layer.norm.weight
    wanted = F.linear(torch.sigmoid(layer.ogate(x)) * y, teacher.layers[0].layer.out.weight)
    torch.testing.assert_close(layer(x)[0], wanted, rtol=1e-6, atol=1e-6)  # the cell adds 1e-6 to its normalizer


def test_a_mamba2_without_decay_is_linear_attention() -> None:
    teacher, layer, x = mixer_case("mamba2(head=8,state=8,groups=4,gate_norm=none)")
    assert not (layer.conv.bias.any() or layer.D.any() or layer.in_proj.weight[-4:].any())
    layer.conv.weight.data.mul_(2)  # it passes half
    layer.conv.activation = layer.conv.activation._replace(apply=lambda z: z)
    torch.nn.init.constant_(layer.A_log, -100)
    layer.dt_bias.data.fill_(torch.expm1(torch.tensor(1.0, dtype=torch.float64)).log().item())  # steps of 1
    q, k, v = heads_of(teacher, x)
    gate = F.silu(F.linear(x, layer.in_proj.weight[:WIDTH]))
    wanted = F.linear(linear_attention(q, k, v).flatten(-2) * gate, teacher.layers[0].layer.out.weight)
    torch.testing.assert_close(layer(x)[0], wanted, rtol=1e-9, atol=1e-9)


def delta_rule(q: Tensor, k: Tensor, v: Tensor, decay: float) -> Tensor:
    """The gated delta rule with beta 1/2, token by token, on what the convolution makes of q, k and v: (B, T, H, E)."""
    q, k, v = (F.silu(t / 2) for t in (q, k, v))
    q, k = (t / (t.square().sum(-1, keepdim=True) + 1e-6).sqrt() for t in (q, k))
    S, out = torch.zeros(*q.shape[:2], 8, 8, dtype=q.dtype), []
    for t in range(q.shape[2]):
        key = k[:, :, t, :, None]
        S = decay * S
        S = S + key @ (v[:, :, t, None] - key.mT @ S) / 2
        out.append(q[:, :, t, None] @ S * 8**-0.5)
    return torch.cat(out, 2).transpose(1, 2)


def silu_gate(layer: torch.nn.Module) -> Tensor:
    assert not layer.gate.weight.any()  # closed until it has learnt
    torch.nn.init.normal_(layer.gate.weight)
    return F.silu


@pytest.mark.parametrize(("pattern", "gate"), [("gdn(head=8,value=8)", silu_gate), ("kda", None)])
def test_a_delta_rule_begins_with_the_teachers_queries_keys_and_values(
    pattern: str, gate: Callable[[torch.nn.Module], Callable[[Tensor], Tensor]] | None
) -> None:
    teacher, layer, x = mixer_case(pattern)
    if gate:
        gate(layer)
    o = delta_rule(*heads_of(teacher, x), decay=2**-0.1)
    y = F.rms_norm(o, (8,), eps=1e-5).flatten(-2) * (F.silu(layer.gate(x)) if gate else 0.5)
    wanted = F.linear(y, teacher.layers[0].layer.out.weight)
    torch.testing.assert_close(layer(x)[0], wanted, rtol=1e-9, atol=1e-9)


def test_the_table_says_of_every_weight_how_it_began() -> None:
    teacher = built("sa(kv_heads=2,bias=qkv)*2")
    student, (first, second, third) = mapped(teacher, "[swa(bias=qkv):4 | mlstm, mamba2(head=8,state=8,groups=4)]")
    assert (first.branch, second.branch, third.branch) == ("0.0", "0.1", "2")
    assert first.repeated == ["0.swa.k.weight", "0.swa.k.bias", "0.swa.v.weight", "0.swa.v.bias"]
    assert set(second.part) == {"1.mlstm.q.weight", "1.mlstm.k.weight"} and second.left == [
        "k.bias",
        "q.bias",
        "v.bias",
    ]
    assert "window fixed(4) (teacher: none)" in first.notes and "output projections times 0.5" in first.notes
    assert third.copied[0] == "mamba2.in_proj.weight[96:128]" and "mamba2.in_proj.weight[0:32]" in third.new
    names = {
        f"layers.{layer.entry}.{name.partition('[')[0]}" for layer in (first, second, third) for name in told(layer)
    }
    assert names == {name for name in student.state_dict() if name.startswith(("layers.0.", "layers.2."))}


def told(layer: MappedLayer) -> list[str]:
    return [name for names in (layer.copied, layer.repeated, layer.part, layer.set, layer.new) for name in names]


REFUSED = [
    ("sa*2", "sa*3", {}, "the teacher has 2 mixers and 2 FFNs, the student 3 mixers and 3 FFNs"),
    ("sa*2", "[ffn,sa,sa,ffn]", {}, "entry 0: the teacher's is sa, the student's ffn"),
    ("sa*2", "[sa,conv]", {}, "entry 2: the teacher's is sa, the student's conv: conv has no mapping from attention"),
    ("gdn*2", "mlstm*2", {}, "gdn is no softmax attention; keep the teacher's (convert.keep: [0])"),
    ("[sa | gdn]*2", "mlstm*2", {}, "branches side by side have no mapping"),
    ("[sa, ffn]", "[sa, ffn(width=5)]", {}, "FFNs stay as they are: give the recipe the teacher's, ffn(width=128)"),
    ("sa", "gdn", {}, "write gdn(heads=4,key_heads=4,head=8,value=8)"),
    ("sa", "mlstm(heads=2)", {}, "write mlstm(heads=4)"),
    ("sa(head=6)", "mlstm", {}, "choose gdn, kda or mamba2"),
    ("sa", "mamba2", {}, "write mamba2(heads=4,head=8,state=8,groups=4)"),
    ("sa(kv_heads=2)", "swa(kv_heads=1):4", {}, "write swa(heads=4,kv_heads=2,head=8):4"),
    ("sa(theta=500000)", "swa:4", {}, "the attention has theta=500000, which swa:4 does not say; write swa("),
    ("sa(bias=true)", "swa(bias=qkv):4", {}, "has no place for out.bias"),
    ("sa(qk_norm=projection)", "swa(qk_norm=true):4", {}, "has no place for q_norm.weight"),
    ("sa(gate=true)", "swa:4", {}, "write swa(heads=4,kv_heads=4,head=8,gate=true):4"),
    ("sa", "sa", {"logit_cap": 2.0}, "logit_cap: the teacher has none, the student 2.0; set model.logit_cap"),
    ("sa", "sa", {"tie": True}, "tie: the teacher has False, the student True"),
    ("sa", "sa", {"embedding_scale": 2.0}, "row_scale: the teacher has 1.0, the student 2.0; set model.embedding"),
    ("sa", "sa", {"norm": "post"}, "entry 0: the teacher normalizes it `pre` (sa), the student `post` (sa)"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "model", "said"), REFUSED)
def test_what_does_not_fit_is_refused_before_a_weight_changes(
    old: str, new: str, model: dict[str, object], said: str
) -> None:
    teacher, student = built(old), built(new, seed=1, **model)
    before = {name: weight.clone() for name, weight in student.state_dict().items()}
    with pytest.raises(UserError) as refusal:
        map_weights(teacher, student)
    assert said in str(refusal.value)
    assert all(torch.equal(weight, before[name]) for name, weight in student.state_dict().items())


def test_width_and_vocabulary_are_compared_and_types_are_cast() -> None:
    teacher = built("sa")
    for name, other in (("width", hk.build("sa", width=16, vocab=40)), ("vocab", hk.build("sa", width=32, vocab=41))):
        with pytest.raises(UserError, match=f"{name}: the teacher has"):
            map_weights(teacher, other)
    student = hk.build("swa:64", width=WIDTH, vocab=40)
    map_weights(teacher, student)
    assert student.embedding.weight.dtype == torch.float32
    torch.testing.assert_close(student(tokens())[0].double(), teacher(tokens())[0], rtol=1e-4, atol=1e-4)
