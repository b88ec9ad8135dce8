"""Gated class-attention: tasks are learnt one after another, and each claims units of one block that later ones leave alone.

Exemplar-free continual learning (GCAB, arXiv:2211.12292). Every task has a token that asks the picture, a head that answers,
and a mask of gates over the block's units. The mask sharpens until it is on or off. What a task has claimed is frozen. At
test nobody says which task it is: all tasks ask, and the largest of all answers counts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explorer.catalogue import Knob, Paper, mechanism
from explorer.errors import BadValue
from explorer.mechanisms.attention._class_attention_gate_claims import CLAIMS
from explorer.taps import Instrumented


def norm(x: Tensor) -> Tensor:
    """Layer norm without gains: gains would be shared by all tasks."""
    return F.layer_norm(x, x.shape[-1:])


def sharpened(e: Tensor, s: Tensor | float, s_max: float) -> Tensor:
    """sigmoid(s e), whose gradient is s_max sigmoid'(e) whatever s is, until |s e| passes 50: there it dies away."""
    slope = s_max * e.sigmoid() * (-e).sigmoid() * (50 - (s * e).abs()).clamp(max=0).exp()
    return (s * e).sigmoid().detach() + slope.detach() * (e - e.detach())


def frozen(p: Tensor, where: Tensor) -> Tensor:
    """p, without a gradient in these places."""
    return torch.where(where, p.detach(), p)


def protected(layer: nn.Linear, x: Tensor, out: Tensor, into: Tensor) -> Tensor:
    """layer(x); a weight between two claimed units, and the bias of a claimed one, get no gradient."""
    return F.linear(
        x, frozen(layer.weight, out[:, None] & into), None if layer.bias is None else frozen(layer.bias, out)
    )


@mechanism(
    "class-attention-gate",
    title="Gated class-attention (GCAB)",
    family="attention",
    slot="readout",
    paper=Paper("Exemplar-free Continual Learning of Vision Transformers via Gated Class-Attention and Cascaded Feature Drift "
                "Compensation", "M. Cotogni et al.", 2022, "2211.12292"),
    lab="University of Pavia",
    summary="Each task claims units of a class-attention block by gates; what is claimed never changes again.",
    equation=r"m_t = \sigma(s\, e_t), \qquad q = m_t W_q (m_t c_t), \quad k = m_t W_k (m_t x), \quad "
    r"o = m_t W_o \big(m_t \operatorname{softmax}(q k^\top) W_v (m_t x)\big), \qquad "
    r"\nabla W \leftarrow \big(1 - M_{<t}^{\text{out}} M_{<t}^{\text{in}\top}\big) \nabla W, \quad "
    r"s \to \knob{s_max}{s_{\max}}",
    knobs={
        "n_tasks": Knob(5, "how many tasks will come", low=1, high=50),
        "classes": Knob(2, "classes of a task", low=1, high=100),
        "n_heads": Knob(4, "heads of the attention (the paper: 12)", low=1, high=64),
        "gated": Knob(True, "False: no gates and nothing protected, plain fine-tuning"),
        "s_max": Knob(800.0, "how sharp the gates are at the end of an epoch", low=1, high=1e4, live=True),
        "gate_rate": Knob(4.0, "how many times as fast as other weights the gates learn. Ours: the paper has 1, and a hundred "
                          "times our steps", low=1, high=100),
        "sparsity_loss": Knob(0.05, "weight of the share of free units that a task claims", low=0, high=10, live=True),
        "drift_loss": Knob(0.01, "weight of what a projector misses of the features as they were (the paper: 0.001 for a "
                           "batch 200 times as large)", low=0, high=10, live=True),
        "cascade": Knob(True, "old tasks see features that the projectors take back to their time", live=True),
    },
    pitfalls=(
        "The sharpness s rises from 1/s_max to s_max in every epoch, not over the run: every epoch begins with soft gates.",
        "A weight is frozen only where both of its ends are claimed; with one free end it goes on learning.",
        "The block keeps, the features drift: whatever feeds it goes on learning, and only the projectors make up for it.",
        "Only the drift loss has a gradient for `drift_in` and `drift_out`: a host must pass the features as they were.",
        "Weight decay would shrink frozen weights all the same: leave it at zero.",
        "Frozen is a matter of gradients: an optimizer that remembers older ones must forget them when a task begins.",
    ),
    reference="none packaged: the authors' code, read slowly in float64",
    claims=CLAIMS,
)  # fmt: skip
class ClassAttentionGate(Instrumented):
    """x_BTD, the features of T patches -> logits (B, C) of the classes of all tasks; those not begun yet answer -1000.

    `enter(task, progress)` says which task is on. Before it was ever called all tasks are learnt at once and nothing is
    frozen. In training a host may pass `past_BTD`, the features of the same pictures by its network of the task before: a
    projector P learns to make them of the present ones. At test old tasks see P_{t+1}(... P_now(x)), the newest first.

    Ours: P starts as the identity (theirs at random, without x itself: in a hundred steps that does more harm than good).
    Norms and projectors have neither gains nor biases, which all tasks would share (theirs freeze them after task 0).
    """

    taps = {"gate": "E D", "hidden_gate": "E F", "capacity": "1"}  # E: a task's part of the block
    reads_past = True
    stage: Tensor
    progress: Tensor

    def __init__(
        self, d_model: int, n_tasks: int = 5, classes: int = 2, n_heads: int = 4, gated: bool = True, s_max: float = 800.0,
        gate_rate: float = 4.0, sparsity_loss: float = 0.05, drift_loss: float = 0.01, cascade: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if d_model % n_heads:
            raise BadValue(f"n_heads={n_heads}: it must split d_model={d_model} into heads of equal width")
        self.n_tasks, self.classes, self.n_heads, self.gated, self.s_max = n_tasks, classes, n_heads, gated, s_max
        self.gate_rate, self.sparsity_loss = gate_rate, sparsity_loss
        self.drift_loss, self.cascade, self.n_classes = drift_loss, cascade, n_tasks * classes
        E, D = n_tasks, d_model
        self.token = nn.Parameter(torch.randn(E, D) * 0.02)
        self.head = nn.Parameter(torch.randn(E, classes, D) * D**-0.5)
        self.head_bias = nn.Parameter(torch.zeros(E, classes))
        self.units, self.hidden_units = (nn.Parameter(torch.randn(E, n) / gate_rate) for n in (D, 4 * D))
        self.q, self.k, self.v = (nn.Linear(D, D, bias=False) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(D, D), nn.Linear(D, 4 * D), nn.Linear(4 * D, D)
        self.drift_in = nn.Parameter(torch.randn(E - 1, D, D) * D**-0.5)
        self.drift_out = nn.Parameter(torch.zeros(E - 1, D, D))
        self.register_buffer("stage", torch.tensor(-1))
        self.register_buffer("progress", torch.tensor(1.0))

    @torch.no_grad()
    def enter(self, task: int, progress: float) -> None:
        """A step of this task begins, at this progress (0 to below 1) of its epoch. Gates stay where they can be moved."""
        if not 0 <= task < self.n_tasks:
            raise BadValue(f"n_tasks={self.n_tasks}: it must be more than {task}, for that is the task that begins")
        self.stage.fill_(task)
        self.progress.fill_(progress)
        for e in (self.units, self.hidden_units):
            e.clamp_(-6 / self.gate_rate, 6 / self.gate_rate)

    def gates(self, e: Tensor, done_E1: Tensor) -> Tensor:
        """The masks of all tasks from their e / gate_rate: on or off for those that are done."""
        if not self.gated:
            return torch.ones_like(e)
        s = 1 / self.s_max + (self.s_max - 1 / self.s_max) * (self.progress if self.training else 1.0)
        return torch.where(done_E1, (e > 0).to(e.dtype), sharpened(self.gate_rate * e, s, self.s_max))

    def back(self, x_BTD: Tensor, task: int | Tensor) -> Tensor:
        """Projector P: the features of `task`, as near as it makes them out of those of the task after it."""
        return x_BTD + norm(x_BTD @ self.drift_in[task]).relu() @ self.drift_out[task]

    def forward(self, x_BTD: Tensor, past_BTD: Tensor | None = None) -> Tensor:
        (B, _, D), E = x_BTD.shape, self.n_tasks
        order_E1 = torch.arange(E, device=x_BTD.device)[:, None]
        done_E1, on_E1 = order_E1 < self.stage, (order_E1 == self.stage) | (self.stage < 0)
        m_ED = self.tap("gate", self.gates(self.units, done_E1))
        n_EF = self.tap("hidden_gate", self.gates(self.hidden_units, done_E1))
        M_D, N_F = (((one > 0.5) & done_E1).any(0) & self.gated for one in (m_ED, n_EF))  # claimed by the tasks before
        used = [((one > 0.5) & (done_E1 | on_E1)).any(0) for one in (m_ED, n_EF)]
        self.tap("capacity", torch.cat(used).float().mean(0, keepdim=True))
        self.auxiliary = None
        if self.training:
            free_ED, free_EF = on_E1 & ~M_D, on_E1 & ~N_F
            new = ((m_ED * free_ED).sum() + (n_EF * free_EF).sum()) / (free_ED.sum() + free_EF.sum()).clamp(min=1)
            self.auxiliary = self.sparsity_loss * new
        if self.training and past_BTD is not None:
            missed = (past_BTD - self.back(x_BTD, self.stage - 1)).norm()
            self.auxiliary = self.auxiliary + self.drift_loss * missed
        then = [x_BTD]  # the features, back to the time of the first task
        for task in reversed(range(E - 1)):
            older_BTD = self.back(then[0], task) if self.cascade and not self.training else then[0]
            then.insert(0, torch.where(task < self.stage, older_BTD, then[0]))
        token_ED = frozen(self.token, done_E1)
        row_BESD = torch.cat([token_ED[:, None].expand(B, E, 1, D), torch.stack(then, 1)], 2)
        y_BED = self.block(token_ED, row_BESD, m_ED, n_EF, M_D, N_F)
        logits_BEC = torch.einsum("bed,ecd->bec", norm(y_BED), frozen(self.head, done_E1[..., None]))
        logits_BEC = logits_BEC + frozen(self.head_bias, done_E1)
        return logits_BEC.masked_fill(~(done_E1 | on_E1), -1000.0).flatten(1)

    def block(self, token_ED: Tensor, row_BESD: Tensor, m_ED: Tensor, n_EF: Tensor, M_D: Tensor, N_F: Tensor) -> Tensor:
        """What each task's token makes of itself and the patches: attention and a feed-forward network, behind its gates."""
        H, m_E1D = self.n_heads, m_ED[:, None]
        row_BESD = m_E1D * norm(row_BESD)
        q_BEHd = (m_ED * protected(self.q, row_BESD[:, :, 0], M_D, M_D)).unflatten(-1, (H, -1))
        k_BESHd = (m_E1D * protected(self.k, row_BESD, M_D, M_D)).unflatten(-1, (H, -1))
        v_BESHd = protected(self.v, row_BESD, M_D, M_D).unflatten(-1, (H, -1))
        looks_BEHS = (torch.einsum("behd,beshd->behs", q_BEHd, k_BESHd) * q_BEHd.shape[-1] ** -0.5).softmax(-1)
        said_BED = torch.einsum("behs,beshd->behd", looks_BEHS, v_BESHd).flatten(2)
        y_BED = token_ED + m_ED * protected(self.out, m_ED * said_BED, M_D, M_D)
        hidden_BEF = n_EF * F.gelu(protected(self.up, m_ED * norm(y_BED), N_F, M_D))
        return y_BED + m_ED * protected(self.down, hidden_BEF, M_D, N_F)
