"""Lineages as text: what they mean, what they refuse."""

from __future__ import annotations

import pytest

from metav.errors import UsageError
from metav.suspects import Distillation, FineTuning, Independent, Retraining, WeightPruning, parse

TARGET = "S(own,30ep,lr=0.001,batch=64,seed=0)"
TRAIN = "public,10ep,lr=0.001,batch=64,seed=2"


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("target", Independent(architecture="S", data="own", epochs=30, lr=0.001, batch=64, seed=0)),
        ("target>wp(0.3)", WeightPruning(ratio=0.3)),
        ("target>wp(0.3,global)", WeightPruning(ratio=0.3, scope="global")),
        (f"target>ftll({TRAIN})", FineTuning(data="public", epochs=10, lr=0.001, batch=64, seed=2, last=1)),
        (f"target>ftal({TRAIN})", FineTuning(data="public", epochs=10, lr=0.001, batch=64, seed=2, last=0)),
        (
            f"target>ft({TRAIN},last=2)",
            FineTuning(data="public", epochs=10, lr=0.001, batch=64, seed=2, last=2),
        ),
        (f"target>rtal({TRAIN})", Retraining(data="public", epochs=10, lr=0.001, batch=64, seed=2, last=0)),
        (
            f"target>wp(0.5)>distill({TRAIN},student=M)",
            Distillation(data="public", epochs=10, lr=0.001, batch=64, seed=2, student="M"),
        ),
    ],
)
def test_the_last_link_is_the_step(text, step):
    assert parse(text, TARGET).step == step


@pytest.mark.parametrize(
    "texts",
    [
        ("wp(0.3)", "wp(0.30)", "wp( ratio = 0.3 )", "wp(.3,layer)", "wp(0.3,scope=layer)"),
        ("rtal(public,9ep,lr=0.01,batch=8,seed=0)", "rtal(public,9,batch=08,lr=1e-2,seed=00)"),
    ],
)
def test_equal_steps_have_one_text_and_one_identity(texts):
    assert len({parse(f"target>{text}", TARGET).full for text in texts}) == 1
    assert parse(f"target>{texts[-1]}", TARGET).text == f"target>{texts[0]}"


def test_target_is_a_short_name_and_spaces_do_not_matter():
    short, long = parse("target > wp(0.3)", TARGET), parse(f"{TARGET}>wp(0.3)", TARGET)
    assert short == long
    assert short.text == "target>wp(0.3)"
    assert short.full == f"{TARGET}>wp(0.3)"
    assert short.parent == "target"
    assert parse("target", TARGET).parent is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("target>wpp(0.3)", "did you mean 'wp'"),
        ("target>wp(0.3", "expected a name with arguments"),
        ("target>wp(1.5)", "above 0 and below 1, got 1.5"),
        ("target>wp(0.3,locally)", "scope layer or global, got 'locally'"),
        ("target>wp()", "expected a value for ratio"),
        (f"target>ftll({TRAIN},last=2)", "got 'last=2'"),
        ("target>ftll(public,tenep,lr=0.001,batch=64,seed=2)", "expected epochs to be of type int"),
        ("target>ftll(public,0ep,lr=0.001,batch=64,seed=2)", "expected epochs of at least 1, got 0"),
        ("target>ftll(public,1ep,lr=0,batch=64,seed=2)", "expected a finite learning rate lr above 0"),
        ("", "expected a name with arguments"),
    ],
)
def test_errors_say_what_is_wrong(text, words):
    with pytest.raises(UsageError) as caught:
        parse(text, TARGET)
    assert words in str(caught.value)
