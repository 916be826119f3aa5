"""annotate: languages of short exercises, what is no language, and token counts of a real tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import stages
from curation.stages.annotate import Annotate
from curation.stages.base import Context
from curation.text import tokens
from curation.text._profiles import LETTERS, WORDS
from curation.text.language import LANGUAGES, fnv, languages
from schemas.errors import WinnowError

STAGE = stages.load()["annotate"]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "What is the value of x if 2x + 3 = 7?"),
        ("en", "Simplify the following expression: $\\frac{1}{2}$"),
        ("en", "Janet's ducks lay 16 eggs per day at $2 each and she pays $3 for them all"),
        ("fr", "Combien de pommes Marie a-t-elle si elle en achète trois ?"),
        ("de", "Wie viele Äpfel hat Peter, wenn er drei kauft?"),
        ("es", "¿Cuántas manzanas tiene María si compra tres?"),
        ("pt", "Quantas maçãs tem a Maria se ela compra três?"),
        ("it", "Quante mele ha Maria se ne compra tre?"),
        ("nl", "Hoeveel appels heeft Jan als hij er drie koopt?"),
        ("ca", "Quantes pomes té la Maria si en compra tres amb els seus amics?"),
        ("sv", "Hur många äpplen har Erik om han köper tre och inte äter några?"),
        ("da", "Hvor mange æbler har Peter, hvis han køber tre af dem?"),
        ("no", "Hvor mange epler har Kari hvis hun kjøper tre av dem, og hva koster det?"),
        ("fi", "Kuinka monta omenaa Annalla on, jos hän ostaa kolme?"),
        ("pl", "Ile jabłek ma Maria, jeśli kupi trzy?"),
        ("cs", "Kolik jablek má Marie, když koupí tři?"),
        ("hu", "Hány almája van Péternek, ha hármat vesz?"),
        ("ro", "Câte mere are Maria dacă cumpără trei?"),
        ("tr", "Ali üç elma alırsa kaç elması olur?"),
        ("vi", "Nếu An mua ba quả táo thì An có bao nhiêu quả táo?"),
        ("id", "Berapa banyak apel yang dimiliki Ani jika dia membeli tiga?"),
        ("zh", "如图，在△ABC中，AB=AC，求∠A的度数。"),
        ("ja", "次の方程式を解きなさい。x+1=2"),
        ("ko", "다음 방정식을 풀어라. x + 1 = 2"),
        ("ru", "Найдите значение выражения x + 1, если x = 2."),
        ("uk", "Знайдіть значення виразу, якщо він їм відомий."),
        ("bg", "Намерете стойността на израза, ако ъгълът е прав."),
        ("ar", "أوجد قيمة س في المعادلة التالية"),
        ("fa", "مقدار را در معادله پیدا کنید"),
        ("hi", "समीकरण को हल कीजिए"),
        ("th", "จงหาค่าของ x"),
        ("el", "Να βρείτε την τιμή της παράστασης"),
        ("he", "מצא את ערך הביטוי"),
        ("und", "\\frac{1}{2} + \\sqrt{x} = 3"),
        ("und", "x^2 + y^2 = z^2"),
        ("und", "12 + 30"),
        ("und", ""),
        ("und", "α + β = γ"),
        ("und", "f(x) = x_1 + ABC"),
        ("und", "```\nfor x in the range of y: is not\n```"),
        ("und", "$the value of x is$"),
        ("und", "def foo(x):\n    return x_is + bar(x)"),
        ("und", "[asy] draw the line from here to there [/asy]"),
        ("und", "https://the.value.of/what/is/it"),
    ],
)
def test_languages(language: str, text: str) -> None:
    assert languages(pa.array([text])).to_pylist() == [language]


def test_profiles_are_in_lower_case_and_known() -> None:
    assert all(text == text.lower() for text in WORDS.values())
    assert {language for text in LETTERS.values() for language in text.split()} <= set(WORDS)
    assert set(WORDS) < set(LANGUAGES)
    assert fnv("a") == (0xCBF29CE484222325 ^ ord("a")) * 0x100000001B3 % 2**64


def test_case_and_chunks_make_no_difference() -> None:
    texts = ["WAS IST DER WERT?", "ЧТО ЭТО?", None, "ÇOK GÜZEL BİR SORU NEDİR?"]
    chunked = pa.chunked_array([pa.array(texts[:1]), pa.array(["x", *texts[1:]]).slice(1)])
    assert languages(chunked).to_pylist() == languages(pa.array(texts)).to_pylist() == ["de", "ru", None, "tr"]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.text(max_size=40), st.text(alphabet="$\\`<[asy]/:aé的 ", max_size=30)), max_size=5)
)
def test_any_text_has_one_answer_of_its_own(texts: list[str | None]) -> None:
    together = languages(pa.array(texts, pa.string())).to_pylist()
    assert together == [languages(pa.array([t], pa.string()))[0].as_py() for t in texts]
    assert all(found is None if t is None else found in LANGUAGES for t, found in zip(texts, together, strict=True))


def test_real_questions_are_english_or_chinese(data_dir: Path) -> None:
    for name, expected in [("text/gsm8k", "en"), ("multimodal/puzzlevqa", "en"), ("multimodal/gaokao_mm", "zh")]:
        found = languages(pq.read_table(data_dir / f"{name}.parquet", columns=["question"])["question"]).to_pylist()
        assert found.count(expected) >= 0.99 * len(found)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BPE tokenizer, trained here on a few sentences, that truncates unless told otherwise."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(["the value of the number", "the sum of the values"], trainer)
    made.enable_truncation(max_length=4)
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_tokens_are_counted_whole(lab: Any, context: Context, tokenizer: Path) -> None:
    from tokenizers import Tokenizer

    texts = ["the value of the number and the sum of the values", "求 x", "", None]
    rows = lab.rows([{"question": t or "", "row_id": f"{i:020x}"} for i, t in enumerate(texts)])
    rows = rows.set_column(rows.schema.get_field_index("question"), "question", pa.array(texts, pa.string()))
    columns = lab.row(STAGE, Annotate(tokenizer=str(tokenizer)), rows, context).columns
    reference = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    reference.no_truncation()
    expected = [None if t is None else len(reference.encode(t, add_special_tokens=False).ids) for t in texts]
    assert columns["n_tokens"].to_pylist() == expected and expected[0] > 4
    assert columns["language"].to_pylist() == ["en", "zh", "und", None]


def test_without_language_and_tokenizer_columns_are_null(lab: Any, context: Context) -> None:
    columns = lab.row(STAGE, Annotate(language="none"), lab.rows([{}, {}]), context).columns
    assert columns.schema == pa.schema([("language", pa.string()), ("n_tokens", pa.int32())])
    assert columns.to_pylist() == [{"language": None, "n_tokens": None}] * 2


def test_where_tokenizers_are_found(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tokens.find("tokenizer.json", tokenizer) == tokenizer / "tokenizer.json"
    assert STAGE.inputs is not None
    assert STAGE.inputs(Annotate(tokenizer=tokenizer.name), tokenizer.parent, tmp_path) == (
        tokenizer / "tokenizer.json",
    )
    assert STAGE.inputs(Annotate(), tmp_path, tmp_path) == ()
    with pytest.raises(WinnowError, match="has no tokenizer"):
        tokens.find(".", tmp_path)
    with pytest.raises(WinnowError, match="hf download nobody/nothing tokenizer"):
        tokens.find("nobody/nothing", tmp_path)
    with pytest.raises(WinnowError, match="does not exist"):
        tokens.find("nothing.json", tmp_path)


def test_a_broken_tokenizer_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WinnowError, match="cannot be read"):
        tokens.counts(pa.chunked_array([["x"]]), tmp_path / "tokenizer.json")


def test_batches_make_no_difference(lab: Any, context: Context, tokenizer: Path) -> None:
    rows = lab.rows([{"question": q} for q in ["the value", "求 x", "12", "was ist das", "the sum of the values"]])
    config = Annotate(tokenizer=str(tokenizer))
    whole = lab.row(STAGE, config, rows, context).columns
    assert all(
        whole.to_pylist() == lab.row(STAGE, config, rows, context, cuts=[i, 4]).columns.to_pylist() for i in range(5)
    )
