"""Recording during training: transformers' own Trainer where accelerate is there, its hooks called in its order where not."""

import copy
import importlib.util
import sys
import time
import types
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import explorer
from explorer import Recording
from explorer.checkpoints.pace import Pace
from explorer.checkpoints.training import TrainingRecorder
from explorer.errors import BadValue, RecordingError
from tests.checkpoints.tiny import config

transformers = pytest.importorskip("transformers", reason="the extra `checkpoints` is not installed")

from explorer.checkpoints.callbacks import FILE, RecordingCallback  # noqa: E402 (it needs transformers)

LAYERS = ["model.layers.0.mlp", "model.layers.1.mlp"]


def tiny():
    torch.manual_seed(0)
    return transformers.OlmoeForCausalLM(config("Olmoe", num_experts=4, num_experts_per_tok=2))


def batch(seed, B=3, T=9):
    ids = torch.randint(3, 90, (B, T), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}


class Loop:
    """Calls a callback's hooks in the order of transformers.Trainer: accumulation, evaluation, saving."""

    def __init__(self, model, callback, folder, micro=2):
        self.model, self.callback, self.micro = model, callback, micro
        self.args = SimpleNamespace(output_dir=str(folder))
        self.state = SimpleNamespace(global_step=0, is_world_process_zero=True)
        self.logged, self.losses = [], []
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def log(self, logs):
        self.logged.append((self.state.global_step, logs))

    def tell(self, name):
        getattr(self.callback, name)(self.args, self.state, None, model=self.model)

    def train(self, steps, save_at=()):
        self.tell("on_train_begin")
        while self.state.global_step < steps:
            self.step()
            if self.state.global_step in save_at:
                self.model.eval()
                self.model(**batch(99))  # an evaluation
                self.model.train()
                Path(f"{self.args.output_dir}/checkpoint-{self.state.global_step}").mkdir()
                self.tell("on_save")
        self.tell("on_train_end")

    def step(self):
        self.tell("on_step_begin")
        for micro in range(self.micro):
            loss = self.model.train()(**batch(self.state.global_step * self.micro + micro)).loss
            loss.backward()
            self.losses.append(float(loss.detach()))
            if micro < self.micro - 1:
                self.tell("on_substep_end")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.global_step += 1
        self.tell("on_step_end")


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def clean(model):
    return hooks(model) == 0 and not any(m._forward_hooks_always_called for m in model.modules())


def test_it_records_what_record_records(tmp_path):
    model = tiny()
    before = copy.deepcopy(model)
    callback = RecordingCallback(budget=1.0, path=tmp_path / "end")
    Loop(model, callback, tmp_path).train(1)
    with explorer.record(before.train(), "*/index") as expected:
        before(**batch(0))
    recording = callback.recording
    got, want = recording.decisions(), expected.decisions()
    assert len(got) == 2 * 3 * 9 * 2 and got["expert"].tolist() == want["expert"].tolist()
    assert got["token"].tolist()[:4] == [t for t in batch(0)["input_ids"][0, :2].tolist() for _ in range(2)]
    assert recording.loads()["load"].tolist() == want_loads(expected) and set(recording.loads()["step"]) == {1}
    assert Recording.load(tmp_path / "end").decisions().equals(got)
    with pytest.raises(RecordingError, match="training has not begun"):
        _ = RecordingCallback().recording


def want_loads(recording):
    return recording.loads()["load"].tolist()


def test_training_is_the_same_bit_by_bit_and_the_model_is_left_clean(tmp_path):
    plain, recorded = tiny(), tiny()
    one = Loop(plain, transformers.TrainerCallback(), tmp_path)
    two = Loop(recorded, RecordingCallback(budget=1.0, attention=True), tmp_path)
    one.train(4)
    two.train(4)
    assert one.losses == two.losses and clean(recorded)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), recorded.parameters(), strict=True))


def test_scalars_go_to_the_trainer_and_to_a_writer(tmp_path):
    model, written = tiny(), []
    writer = SimpleNamespace(add_scalar=lambda *row: written.append(row))
    callback = RecordingCallback(budget=1.0, attention=True, writer=writer)
    callback.trainer = loop = Loop(model, callback, tmp_path)
    loop.train(2)
    step, logs = loop.logged[0]
    assert (
        step == 1
        and len(logs) == 2 * 4
        and {step for *_, step in written} == set(callback.recording.counts(LAYERS[0])[0].tolist())
    )
    counts = callback.recording.counts(LAYERS[1])[1][0]
    assert logs[f"max_violation/{LAYERS[1]}"] == pytest.approx(float(counts.max() / counts.mean() - 1))
    share = callback.recording.attention().query("step == 1 and layer == 'model.layers.0.self_attn'")
    assert logs["first_token_share/model.layers.0.self_attn"] == pytest.approx(share["first_token_share"].mean())
    assert 0 <= logs[f"dead_experts/{LAYERS[0]}"] <= 1 and 0 < logs[f"load_entropy/{LAYERS[0]}"] <= 1


def test_a_step_is_one_pass_whatever_is_accumulated_evaluated_or_generated(tmp_path):
    callback = RecordingCallback(budget=1.0)
    Loop(tiny(), callback, tmp_path, micro=3).train(5, save_at=(2, 4))
    counts = callback.recording.counts(LAYERS[0])
    assert counts[1].sum(1).tolist() == [3 * 9 * 2] * len(counts[0]) and len(set(counts[0].tolist())) == len(counts[0])
    watch = TrainingRecorder(model := tiny(), False, 4, Pace(1.0))
    watch.begin(7)
    model.eval()(**batch(0))
    model.train()(**batch(1, T=4))
    model.train()(**batch(2))
    watch.end()
    assert (
        watch.recording.decisions()["step"].unique().tolist() == [7]
        and len(watch.recording.decisions()) == 2 * 3 * 4 * 2
    )


def test_gradient_checkpointing_computes_layers_twice_but_is_recorded_once(tmp_path):
    model = tiny()
    model.gradient_checkpointing_enable()
    before = hooks(model)  # transformers adds one of its own
    callback = RecordingCallback(budget=1.0)
    Loop(model, callback, tmp_path, micro=1).train(1)
    assert callback.recording.counts(LAYERS[0])[1].sum() == 3 * 9 * 2 and hooks(model) == before


def test_training_goes_on_from_a_checkpoint(tmp_path):
    model = tiny()
    first = RecordingCallback(budget=1.0)
    Loop(model, first, tmp_path).train(4, save_at=(3,))
    kept = Recording.load(tmp_path / "checkpoint-3" / FILE)
    again = Loop(model, second := RecordingCallback(budget=1.0), tmp_path)
    again.state.global_step = 3
    again.train(6)
    steps = second.recording.counts(LAYERS[0])[0].tolist()
    before = kept.counts(LAYERS[0])[0].tolist()
    assert steps[: len(before)] == before and steps == sorted(set(steps))
    assert second.recording.header["training"]["steps"] == 6
    assert second.recording.header["events"][-1][1] == "training resumed at step 3"


@pytest.mark.parametrize("where", ["layer", "loss"])
def test_an_error_in_training_leaves_the_model_clean_and_is_itself_raised(tmp_path, where):
    model = tiny()
    loop = Loop(model, callback := RecordingCallback(budget=1.0), tmp_path)
    if where == "layer":
        experts = model.model.layers[1].mlp.experts
        for one in experts if isinstance(experts, torch.nn.ModuleList) else [experts]:  # a list in version 4
            one.forward = lambda *_, **__: 1 / 0
    else:
        model.loss_function = lambda *_, **__: 1 / 0
    with pytest.raises(ZeroDivisionError):
        loop.train(1)
    assert clean(model) and callback.recording.decisions().empty and not callback.recording.layers()
    assert all("begin" not in vars(one) for one in callback._of.watched.ears.values())


def test_what_cannot_be_heard_is_an_error_never_silence(tmp_path):
    compiled = torch.compile(tiny())
    with pytest.raises(RecordingError, match="compiled"):
        Loop(compiled, RecordingCallback(), tmp_path).train(1)
    with pytest.raises(RecordingError, match="no router that is known"):
        Loop(transformers.LlamaForCausalLM(config("Llama")), RecordingCallback(), tmp_path).train(1)
    watch = TrainingRecorder(tiny(), False, 4, Pace())
    watch.begin(1)
    with pytest.raises(RecordingError, match="no training pass of OlmoeForCausalLM was heard in step 1"):
        watch.end()
    watch.close()


def test_another_process_than_the_first_records_nothing(tmp_path):
    loop = Loop(tiny(), callback := RecordingCallback(), tmp_path)
    loop.state.is_world_process_zero = False
    loop.train(1)
    with pytest.raises(RecordingError, match="not its first process"):
        _ = callback.recording


# -- the account -----------------------------------------------------------------------------------------------------
def spend(pace, seconds, cost):
    recorded = pace.due()
    pace._now = cost if recorded else 0.0
    pace.ended(seconds + pace._now, recorded)
    return recorded


@pytest.mark.parametrize(("budget", "cost", "every"), [(0.02, 0.5, 25), (0.02, 0.01, 1), (0.1, 1.0, 10)])
def test_recorded_steps_are_spaced_to_keep_the_budget(budget, cost, every):
    pace = Pace(budget)
    recorded = [i for i in range(1000) if spend(pace, 1.0, cost)]
    assert recorded[0] == 0 and pace.spent <= budget * pace.seconds * (1 + 1e-9)
    gaps = {b - a for a, b in pairwise(recorded[3:])}
    assert gaps <= {every, every + 1} and pace.spacing == pytest.approx(every)
    assert pace.about()["spacing"] == round(pace.spacing, 1) and pace.about()["recorded"] == len(recorded)


def test_an_account_goes_on_and_follows_dearer_steps():
    pace, again = Pace(0.02), Pace(0.02)
    for _ in range(200):
        spend(pace, 1.0, 0.1)
    again.resume(pace.state())
    assert again.about() == pace.about()
    for _ in range(2000):
        spend(again, 1.0, 2.0)
    assert again.spent <= 0.02 * again.seconds + 2.0 and again.spacing == pytest.approx(100)
    for wrong in (0, -1, 2, True, "a", float("nan")):
        with pytest.raises(BadValue, match="budget="):
            Pace(wrong)


def test_the_account_is_of_the_true_cost(tmp_path):
    """What recording every step adds to the time of training is what the account says, within what a busy machine blurs.

    Seconds of this thread, the least of three runs: what collects garbage or ends late in the same process is not of it.
    """

    def seconds(callback):
        torch.manual_seed(0)
        model = transformers.OlmoeForCausalLM(
            config("Olmoe", num_experts=4, num_experts_per_tok=2, hidden_size=128, head_dim=32)
        )
        loop = Loop(model, callback, tmp_path, micro=1)
        loop.train(3)
        began = time.thread_time()
        loop.tell("on_train_begin")
        for _ in range(20):
            loop.step()
        return time.thread_time() - began

    def recorded():
        always = RecordingCallback(budget=1.0)
        always.pace.due = lambda: True
        spent = seconds(always)
        assert always.pace.recorded >= 20
        return spent, always.pace.about()["seconds_a_recording"] * 20

    plain = min(seconds(transformers.TrainerCallback()) for _ in range(3))
    spent, said = min(recorded() for _ in range(3))
    assert said > 0.3 * (spent - plain) - 0.2 * plain
    pace = RecordingCallback(budget=0.02)
    seconds(pace)
    assert pace.recording.header["training"]["budget"] == 0.02 and pace.pace.recorded < 10


# -- the real ones ---------------------------------------------------------------------------------------------------
def test_with_the_trainer_of_transformers(tmp_path):
    pytest.importorskip("accelerate", reason="transformers.Trainer needs it")
    data = [{name: value[0] for name, value in batch(i, B=1).items()} for i in range(24)]
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "report_to": [], "use_cpu": True}
    settings |= {"disable_tqdm": True, "save_steps": 4, "eval_strategy": "steps", "eval_steps": 3, "logging_steps": 2}

    def trainer(steps, callback):
        args = transformers.TrainingArguments(str(tmp_path), max_steps=steps, **settings)
        made = transformers.Trainer(tiny(), args, train_dataset=data, eval_dataset=data[:4], callbacks=[callback])
        callback.trainer = made
        return made

    first = trainer(6, callback := RecordingCallback(budget=1.0, attention=True))
    first.train()
    assert clean(first.model) and callback.recording.counts(LAYERS[0])[1].sum(1).unique().tolist() == [2 * 9 * 2]
    logged = {row["step"] for row in first.state.log_history if f"max_violation/{LAYERS[0]}" in row}
    assert logged == set(callback.recording.counts(LAYERS[0])[0].tolist()) and 1 in logged
    second = trainer(8, again := RecordingCallback(budget=1.0))
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert again.recording.header["training"]["steps"] == 8 and again.recording.step > 4
    assert 1 in again.recording.counts(LAYERS[0])[0].tolist()


@pytest.fixture
def lightning_callback(monkeypatch):
    """The module of the callback, with a stand-in for Lightning's base class where it is not installed."""
    if importlib.util.find_spec("lightning") is None:
        stub = types.ModuleType("lightning.pytorch")
        stub.Callback = type("Callback", (), {})
        monkeypatch.setitem(sys.modules, "lightning", types.ModuleType("lightning"))
        monkeypatch.setitem(sys.modules, "lightning.pytorch", stub)
        monkeypatch.delitem(sys.modules, "explorer.checkpoints.lightning_callback", raising=False)
    from explorer.checkpoints import lightning_callback

    yield lightning_callback
    monkeypatch.delitem(sys.modules, "explorer.checkpoints.lightning_callback", raising=False)


class Module(torch.nn.Module):
    """What a LightningModule is to a callback: the model is an attribute of it."""

    def __init__(self):
        super().__init__()
        self.model = tiny()


def lightning_loop(callback, trainer, module, batches, accumulate=2):
    """Lightning's hooks in its order, by the documentation of Callback."""
    callback.on_train_start(trainer, module)
    for i in range(batches):
        callback.on_train_batch_start(trainer, module, None, i)
        module.model.train()(**batch(i)).loss.backward()
        trainer.global_step += (i + 1) % accumulate == 0
        callback.on_train_batch_end(trainer, module, None, None, i)
    callback.on_train_end(trainer, module)


def test_lightning_by_its_documented_hooks(lightning_callback, tmp_path):
    logged = []
    logger = SimpleNamespace(log_metrics=lambda scalars, step: logged.append((step, scalars)))
    trainer = SimpleNamespace(global_step=0, is_global_zero=True, loggers=[logger])
    callback = lightning_callback.LightningRecordingCallback(budget=1.0, path=tmp_path / "end")
    module = Module()
    lightning_loop(callback, trainer, module, 8)
    steps, counts = callback.recording.counts(LAYERS[0])
    assert steps.tolist()[0] == 0 and len(set(steps.tolist())) == len(steps) and counts.sum(1).unique().tolist() == [54]
    assert [step for step, _ in logged] == steps.tolist() and f"load_entropy/{LAYERS[0]}" in logged[0][1]
    assert clean(module) and (tmp_path / "end").exists()
    again = lightning_callback.LightningRecordingCallback(budget=1.0)
    again.load_state_dict(callback.state_dict())
    trainer.global_step = 4
    lightning_loop(again, trainer, module, 8)
    both = again.recording.counts(LAYERS[0])[0].tolist()
    assert both[: len(steps)] == steps.tolist() and both[-1] >= 4 and both == sorted(set(both))
    with pytest.raises(RecordingError, match="no part 'absent'"):
        lightning_callback.model_in(module, "absent")
    module.other = tiny()
    with pytest.raises(RecordingError, match="name one of model, other"):
        lightning_callback.model_in(module, None)
    assert lightning_callback.model_in(module, "other") is module.other
    with pytest.raises(RecordingError, match="no model that can be recorded"):
        lightning_callback.model_in(torch.nn.Linear(2, 2), None)


def test_with_the_trainer_of_lightning(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed")
    from explorer.checkpoints.lightning_callback import LightningRecordingCallback

    class Real(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = tiny()

        def training_step(self, given, _):
            return self.model(**given).loss

        def validation_step(self, given, _):
            return self.model(**given).loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(callback, steps, resume=None):
        data = torch.utils.data.DataLoader(
            [{n: v[0] for n, v in batch(i, B=1).items()} for i in range(12)], batch_size=3
        )
        trainer = lightning.Trainer(
            max_steps=steps, accumulate_grad_batches=2, accelerator="cpu", devices=1, logger=False, callbacks=[callback],
            default_root_dir=tmp_path, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip
        trainer.fit(module := Real(), data, data, ckpt_path=resume)
        trainer.save_checkpoint(tmp_path / "saved.ckpt")
        return module

    module = fit(callback := LightningRecordingCallback(budget=1.0, attention=True), 4)
    steps, counts = callback.recording.counts(LAYERS[0])
    assert steps[0] == 0 and counts.sum(1).unique().tolist() == [54] and clean(module.model)
    fit(again := LightningRecordingCallback(budget=1.0, attention=True), 6, tmp_path / "saved.ckpt")
    assert again.recording.counts(LAYERS[0])[0].tolist()[: len(steps)] == steps.tolist() and again.recording.step >= 4


def test_a_model_of_our_own_mechanisms():
    model = explorer.Experiment("topk-softmax", task="text").model
    before = hooks(model)  # the experiment listens too
    watch = TrainingRecorder(model, False, 4, Pace(1.0))
    for step in range(2):
        watch.begin(step)
        model.train()(torch.randint(0, 20, (2, 8)))
        scalars = watch.end()
        watch.pace.due = lambda: False
    layer = watch.recording.layers()[0]
    assert watch.recording.counts(layer)[0].tolist() == [0] and scalars == {} and hooks(model) == before


def test_compiling_by_the_trainer_is_refused(tmp_path):
    loop = Loop(tiny(), RecordingCallback(), tmp_path)
    loop.args.torch_compile = True
    with pytest.raises(RecordingError, match="torch_compile=True"):
        loop.train(1)
