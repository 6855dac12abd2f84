"""The side of PEFT, in a process without TensorFlow, in which importing it crashes.

    python peft_side.py write FOLDER   writes bases, adapters and outputs of all cases
    python peft_side.py read FOLDER    reads the adapters `ours` of all cases on them

Each case is a folder: `base`, `theirs`, `inputs.npz`, `theirs.npy` (outputs of PEFT
with the adapter that it wrote) and `ours.npy` (with the adapter that we wrote).
"""

import sys
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

ENCODER = {
    "vocab_size": 97,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 33,
    "intermediate_size": 47,
    "max_position_embeddings": 61,
}
GPT2 = {
    "vocab_size": 97,
    "n_layer": 2,
    "n_head": 3,
    "n_embd": 33,
    "n_positions": 61,
    "bos_token_id": None,
    "eos_token_id": 0,
}
LLAMA = {**ENCODER, "hidden_size": 36, "num_key_value_heads": 1}
T5 = {
    "vocab_size": 97,
    "num_layers": 2,
    "num_heads": 3,
    "d_model": 33,
    "d_kv": 11,
    "d_ff": 47,
    "decoder_start_token_id": 0,
}
VIT = {**ENCODER, "image_size": 8, "patch_size": 4}
VIT_ALL = ["q_proj", "o_proj", "fc1", "fc2"]
BART = {
    "vocab_size": 97,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 47,
    "decoder_ffn_dim": 47,
    "d_model": 33,
    "max_position_embeddings": 61,
}
HEAD = {"modules_to_save": ["classifier"]}
ALL = ["c_attn", "c_proj", "c_fc"]
PATTERNS = {
    "rank_pattern": {"layer.1.attention.self.query": 5},
    "alpha_pattern": {"value": 11, r"^encoder\.layer\.1\.attention.self.key": 3},
    "target_modules": ["query", "key", "value"],
}
# name -> (family, kind, sizes, settings of LoRA)
CASES = {
    "bert": ("Bert", "ForSequenceClassification", ENCODER, HEAD),
    "bert-dense": (
        "Bert",
        "ForTokenClassification",
        ENCODER,
        {"target_modules": ["dense", "key"], "use_rslora": True, **HEAD},
    ),
    "bert-patterns": ("Bert", "Model", ENCODER, PATTERNS),
    "roberta": ("Roberta", "ForSequenceClassification", ENCODER, HEAD),
    "masked": ("Bert", "ForMaskedLM", ENCODER, {"target_modules": ["query"]}),
    "gpt2": ("GPT2", "LMHeadModel", GPT2, {}),
    "gpt2-all": ("GPT2", "LMHeadModel", GPT2, {"target_modules": ALL}),
    "llama": ("Llama", "ForCausalLM", LLAMA, {}),
    "t5": ("T5", "ForConditionalGeneration", T5, {}),
    "vit": ("ViT", "ForImageClassification", VIT, {"target_modules": VIT_ALL}),
    "bart": ("Bart", "ForConditionalGeneration", BART, {}),
}
REFUSED = {
    "dora": peft.LoraConfig(use_dora=True),
    "bias": peft.LoraConfig(bias="lora_only"),
    "ia3": peft.IA3Config(),
    "pissa": peft.LoraConfig(init_lora_weights="pissa"),
    "tokens": peft.LoraConfig(trainable_token_indices=[1, 2]),
    "tables": peft.LoraConfig(target_modules=["word_embeddings", "query"]),
}


def write(folder):
    rng = np.random.default_rng(2)
    ids = rng.integers(1, 97, (3, 7))
    images = rng.normal(size=(2, 3, 8, 8)).astype("float32")
    for name, (family, kind, sizes, settings) in CASES.items():
        place = folder / name
        config = getattr(transformers, f"{family}Config")(**sizes)
        base = getattr(transformers, family + kind)(config).eval()
        draw(base, 1)
        base.save_pretrained(place / "base")
        lora = peft.LoraConfig(r=3, lora_alpha=7, **settings)
        theirs = peft.get_peft_model(base, lora).eval()
        draw(theirs, 3, only=("lora_", "modules_to_save"))
        theirs.save_pretrained(place / "theirs")
        inputs = {"pixel_values": images} if name == "vit" else {"input_ids": ids}
        if name in ("t5", "bart"):
            inputs["decoder_input_ids"] = ids
        np.savez(place / "inputs.npz", **inputs)
        np.save(place / "theirs.npy", outputs(theirs, inputs))
    for name, lora in REFUSED.items():
        base = transformers.BertModel(transformers.BertConfig(**ENCODER))
        base.save_pretrained(folder / name / "base")
        peft.get_peft_model(base, lora).save_pretrained(folder / name / "theirs")


def read(folder):
    for place in sorted(folder.glob("*/ours")):
        family, kind, *_ = CASES[place.parent.name]
        base = getattr(transformers, family + kind)
        base = base.from_pretrained(place.parent / "base").eval()
        model = peft.PeftModel.from_pretrained(base, place).eval()
        inputs = dict(np.load(place.parent / "inputs.npz"))
        np.save(place.parent / "ours.npy", outputs(model, inputs))


def draw(model, seed, only=("",)):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in only):
                random = torch.randn(parameter.shape, generator=generator)
                near_one = parameter.ndim == 1 and name.endswith("weight")
                parameter.copy_(random * 0.25 + float(near_one))


def outputs(model, inputs):
    with torch.no_grad():
        given = {name: torch.as_tensor(value) for name, value in inputs.items()}
        return model(**given)[0].numpy()


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
