"""Chat templates: which file is read, what is rendered, and that hostile ones stop."""

import json
import time

import keras
import pytest
from samples import VOCABULARY

import keras_attention as ka
from keras_attention.text import chat, sandbox

pytest.importorskip("jinja2")
pytest.importorskip("tensorflow_text")
pytestmark = pytest.mark.tensorflow

# Of the form of ChatML, with the tokens of a BERT.
CHATML = (
    "{% for message in messages %}\n"
    "{{ '[CLS] ' + message['role'] + '\\n' + message['content'] + ' [SEP]\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '[CLS] assistant\\n' }}{% endif %}"
)
CHAT = [
    {"role": "user", "content": "the animal!", "name": None},
    {"role": "assistant", "content": "tired"},
]
TEXT = "[CLS] user\nthe animal! [SEP]\n[CLS] assistant\ntired [SEP]\n"


def tokenizer(tmp_path, **files):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        ending = "jinja" if content is text else "json"
        path = tmp_path / f"{name.replace('__', '/')}.{ending}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return ka.load_tokenizer(tmp_path)


def test_a_template_of_either_file_is_read_and_saved(tmp_path):
    sources = {
        "file": {"chat_template": CHATML},
        "entry": {"tokenizer_config": {"chat_template": CHATML}},
        "file wins": {
            "chat_template": CHATML,
            "tokenizer_config": {"chat_template": "old"},
        },
    }
    for name, files in sources.items():
        folder = tmp_path / name
        folder.mkdir()
        found = tokenizer(folder, **files)
        text = found.apply_chat_template(
            CHAT, tokenize=False, add_generation_prompt=True
        )
        assert text == TEXT + "[CLS] assistant\n"
        found.save(tmp_path / f"{name} again")
        again = ka.load_tokenizer(tmp_path / f"{name} again")
        assert again.apply_chat_template(CHAT, tokenize=False) == TEXT
    config = keras.saving.serialize_keras_object(again)
    restored = keras.saving.deserialize_keras_object(config)
    assert restored.apply_chat_template(CHAT, tokenize=False) == TEXT


def test_ids_and_batches(tmp_path):
    found = tokenizer(tmp_path, chat_template=CHATML)
    ids = found.apply_chat_template(CHAT)
    assert ids == found.tokenize([TEXT]).to_list()[0]
    short = [{"role": "user", "content": "a"}]
    assert found.apply_chat_template([CHAT, short])[0] == ids
    assert found.apply_chat_template((CHAT, short), tokenize=False)[1] == (
        "[CLS] user\na [SEP]\n"
    )


def test_named_templates_and_what_they_see(tmp_path):
    tools = "{{ tools | tojson }}{{ sep_token }}{{ mood }}"
    tools += "{% generation %}x{% endgeneration %}"
    found = tokenizer(
        tmp_path,
        chat_template="{{ strftime_now('%Y') | length }}{{ documents[0].title }}",
        additional_chat_templates__tool_use=tools,
    )
    weather = [{"type": "function", "name": "<weather>"}]
    text = found.apply_chat_template(CHAT, tools=weather, tokenize=False, mood="gay")
    assert text == '[{"type": "function", "name": "<weather>"}][SEP]gayx'
    documents = [{"title": "one", "text": "two"}]
    assert (
        found.apply_chat_template(CHAT, documents=documents, tokenize=False) == "4one"
    )
    own = found.apply_chat_template(CHAT, chat_template="{{ 1 }}", tokenize=False)
    assert own == "1"


def test_errors_say_what_is_missing(tmp_path):
    found = tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"no default chat template.*Received: "):
        found.apply_chat_template(CHAT)
    refusing = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(ValueError, match=r"System role not supported.*Received: roles"):
        found.apply_chat_template(CHAT, chat_template=refusing)
    for wrong in ([], ["hello"]):
        with pytest.raises(ValueError, match="one or more messages"):
            found.apply_chat_template(wrong, chat_template=CHATML)
    with pytest.raises(ValueError, match=r"cannot be read.*Received: chat_template="):
        found.apply_chat_template(CHAT, chat_template="{% for %}")


HOSTILE = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ (messages|first).__init__.__globals__ }}",
    "{{ namespace(__class__=1) }}",
    "{{ dict.__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as x %}",
    "{{ range(10**9) | list | length }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% set l = range(99999)|list %}{% for i in l %}{% set x = -1 in l %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(90) }}",
    "{{ 'a' * 10**9 }}",
    "{{ 10 ** 10 ** 8 ** 99 }}",
    "{{ 'a' | center(10**9) }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ '{:>999999999}'.format('a') }}",
    "{{ '{0:{1}}'.format('a', 999999999) }}",
    "{{ '%999999999d' % 3 }}",
    "{{ '%999999999d' | format(3) }}",
    "{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}",
    *(
        "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}"
        f"{{% set ns.x {double} %}}{{% endfor %}}"
        for double in (
            "= ns.x ~ ns.x",
            "= ns.x + ns.x",
            "= ns.x * 9",
            "%}{{ ns.x }}{{ ns.x }}{% endset",
        )
    ),
]


@pytest.mark.parametrize("template", HOSTILE)
def test_a_hostile_template_is_stopped(template):
    start = time.thread_time()
    with pytest.raises(ValueError, match=r"Received: roles") as caught:
        chat.render(template, CHAT)
    assert time.thread_time() - start < 6
    assert len(str(caught.value)) <= 2000


def test_a_template_cannot_reach_the_methods_of_what_it_is_given():
    class Hole(str):
        def open(self):
            raise AssertionError("reached")

    message = {"role": "user", "content": Hole("a"), "image": object()}
    seen = chat.render("{{ messages[0].content.open is defined }}", [message])
    assert seen == "False"
    assert chat.render("{{ messages[0].image }}", [message]) == "<object>"
    before = [dict(each) for each in CHAT]
    chat.render("{{ messages[0].pop is defined }}", CHAT)
    assert before == CHAT


def test_long_conversations_are_no_attack():
    turns = CHAT * 400
    text = chat.render(CHATML, turns)
    assert text == TEXT * 400
    assert len(turns) * 50 < sandbox.MAX_STEPS


def test_a_task_generates_from_a_conversation(tmp_path):
    found = tokenizer(tmp_path, chat_template=CHATML)
    decoder = ka.GPTDecoder(len(VOCABULARY), 1, 2, 8, 16)
    model = ka.CausalLM(decoder, found, compiled=False)
    ids = found.apply_chat_template(CHAT, add_generation_prompt=True)
    assert len(model.generate([ids], max_new_tokens=3)[0]) == 3
    model.save(tmp_path / "model.keras")
    again = ka.load_model(tmp_path / "model.keras").tokenizer
    assert again.apply_chat_template(CHAT, add_generation_prompt=True) == ids
