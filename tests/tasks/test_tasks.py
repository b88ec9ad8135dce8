"""What holds for every task: the same seed gives the same data, batches have no memory, targets fit."""

import json
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from explorer.errors import BadValue, ExplorerError
from explorer.tasks import (
    TASKS,
    UNSCORED,
    BigramBackcopy,
    Clusters,
    DigitPatches,
    Digits,
    Field,
    OdeFamilies,
    SelectiveCopy,
    SplitDigits,
    Text,
    TwoTones,
    task,
)
from explorer.tasks.data import Stream

VARIANTS = {
    "text": Text(bytes_per_domain=40_000, sequence=24),
    "text of the user's": Text(texts={"a": "to be or not to be. " * 40, "b": "0123456789\n" * 60}, sequence=10),
    "clusters": Clusters(),
    "clusters in the plane": Clusters(dimensions=2, clusters=5, common=3),
    "bigram-backcopy": BigramBackcopy(),
    "bigram-backcopy without BOS": BigramBackcopy(vocab=7, triggers=2, sequence=11, bos=False),
    "field": Field(),
    "digits": Digits(),
    "ode-families": OdeFamilies(),
    "digit-patches": DigitPatches(),
    "few digit patches": DigitPatches(patch=4, n_train=20),
    "split-digits": SplitDigits(),
    "selective-copy": SelectiveCopy(),
    "selective copying of few": SelectiveCopy(vocab=5, data=2, sequence=9),
    "two-tones": TwoTones(),
    "two-tones in short rows": TwoTones(length=7, width=16, tones=5, cue=2),
}
every_task = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@every_task
def test_the_same_seed_gives_the_same_data_twice(config):
    one, other = config.build(3), config.build(3)
    assert same(one.batch(7, 6), other.batch(7, 6))
    assert same(one.held_out(), other.held_out())
    assert one.describe() == other.describe()


@every_task
def test_a_batch_does_not_depend_on_what_was_drawn_before(config):
    data = config.build(0)
    fifth = data.batch(5, 8)
    for step in (0, 1, 9):
        data.batch(step, 3)
    torch.rand(100)
    assert same(data.batch(5, 8), fifth)
    assert not torch.equal(data.batch(6, 8).inputs, fifth.inputs)


@every_task
def test_drawing_leaves_the_global_random_state_alone(config):
    before = torch.get_rng_state()
    data = config.build(0)
    data.batch(0, 4)
    data.held_out()
    assert torch.equal(torch.get_rng_state(), before)


@every_task
def test_other_seeds_give_other_batches(config):
    batches = [config.build(seed).batch(0, 8).inputs for seed in range(4)]
    assert all(not torch.equal(batches[i], batches[j]) for i in range(4) for j in range(i))


@every_task
def test_shapes_and_types_are_those_of_the_contract(config):
    data = config.build(1)
    for batch in (data.batch(0, 6), data.held_out()):
        assert batch.labels.dtype == torch.int64
        assert data.kind in ("tokens", "vectors", "sequences")
        assert batch.labels.min() >= 0 and batch.labels.max() < len(data.label_names)
        assert all(part.is_contiguous() for part in batch)
        if data.kind == "tokens":
            assert batch.inputs.shape == batch.targets.shape == batch.labels.shape == (len(batch.inputs), data.sequence)
            assert batch.inputs.dtype == batch.targets.dtype == torch.int64
            assert batch.inputs.min() >= 0 and max(batch.inputs.max(), batch.targets.max()) < data.vocab
            if not isinstance(config, SelectiveCopy):  # its markers are answered, not predicted
                assert torch.equal(batch.targets[:, 1:-1], batch.inputs[:, 2:])
        elif data.kind == "sequences":
            assert batch.inputs.shape == (len(batch.labels), data.length, data.width)
            assert batch.inputs.dtype == torch.float32 and batch.inputs.isfinite().all()
            outputs = torch.zeros(len(batch.labels), *([] if data.pooled else [data.length]), data.outputs)
            assert data.loss(outputs, batch).isfinite()
        else:
            assert batch.inputs.shape == batch.targets.shape == (len(batch.labels), data.width)
            assert batch.inputs.dtype == batch.targets.dtype == torch.float32
            assert batch.inputs.isfinite().all() and batch.targets.isfinite().all()


@every_task
def test_the_description_is_json_and_the_data_survives_another_process(config):
    data = config.build(2)
    assert json.loads(json.dumps(data.describe())) == data.describe()
    assert same(pickle.loads(pickle.dumps(data)).batch(1, 4), data.batch(1, 4))


@every_task
def test_a_config_can_be_hashed_compared_and_varied(config):
    assert hash(config) == hash(replace(config)) and config == replace(config)
    with pytest.raises(FrozenInstanceError):
        config.sequence = 3


@every_task
@pytest.mark.parametrize("step, size", [(-1, 4), (0, 0), (0, -2), (0.5, 4), (0, 2.0), (True, 4)])
def test_a_step_or_size_that_is_none_is_refused(config, step, size):
    with pytest.raises(BadValue, match=r"^(step|size) must be .*, not "):
        config.build(0).batch(step, size)


@every_task
def test_a_bad_seed_is_refused(config):
    for seed in (-1, 1.5, "x", None):
        with pytest.raises(BadValue, match=r"^seed must be"):
            config.build(seed)


def test_uniform_logits_cost_the_logarithm_of_the_vocabulary():
    data = BigramBackcopy(vocab=31).build(0)
    batch = data.batch(0, 3)
    assert data.loss(torch.zeros(3, 64, 32), batch).item() == pytest.approx(torch.tensor(32.0).log().item())


def test_the_loss_counts_scored_targets_only():
    data = BigramBackcopy(vocab=5, triggers=1, sequence=4).build(0)
    batch = data.batch(0, 2)
    assert (batch.targets == UNSCORED).sum() == 2
    logits = torch.full((2, 4, 6), -50.0).scatter(2, batch.targets.clamp(min=0).unsqueeze(2), 50.0)
    logits[:, 0] = torch.tensor([9.0, 0, 0, 0, 0, 0])
    assert data.loss(logits, batch).item() == pytest.approx(0, abs=1e-6)


def test_every_task_is_found_by_its_name_with_its_defaults():
    for name, config in TASKS.items():
        assert task(name) == config() == task(config)
    assert task(Clusters(noise=1)) == Clusters(noise=1)


def test_a_misspelt_task_gets_a_suggestion():
    with pytest.raises(ExplorerError, match=r"^no task 'cluster'; did you mean 'clusters'\?$"):
        task("cluster")


@pytest.mark.parametrize("given", [None, 3, dict, ["text"]])
def test_what_is_no_task_is_refused(given):
    with pytest.raises(BadValue, match=r"a task is a name \(text, clusters, .*\) or an object"):
        task(given)


def test_steps_of_one_seed_never_share_their_random_numbers():
    stream = Stream(0, "test")
    assert len({stream.at(step).initial_seed() for step in range(20_000)}) == 20_000
    assert Stream(0, "test").at(1).initial_seed() != Stream(0, "other").at(1).initial_seed()


def test_importing_the_tasks_reads_nothing_and_imports_no_heavy_module():
    code = (
        "import sys, torch; before = set(sys.modules); import explorer.tasks;"
        "new = {module.split('.')[0] for module in set(sys.modules) - before};"
        "print(sorted(new & {'pydoc', 'pydoc_data', 'pandas', 'plotly', 'transformers', 'sympy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
