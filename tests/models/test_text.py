import logging

import pytest
import torch

from guided_transfer.errors import CheckpointError, UsageError
from guided_transfer.models.text import TextEncoder, load_text_encoder
from guided_transfer.models.tree import CheckpointConfig, CheckpointTree

PROMPTS = ["a bright clinic room", "a robot arm above a phantom on a green table", ""]
CORPUS = [*PROMPTS, "the bottom video is facing the same table in the top video without reflection"]


def write_tokenizer(folder):
    """A sentencepiece tokenizer in the files of the official folder."""
    import sentencepiece

    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(CORPUS * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "spiece"),
        vocab_size=60,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    corpus.unlink()
    (folder / "spiece.vocab").unlink()


def tiny_t5():
    """The full model, decoder included, of which the official folder holds the weights."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(vocab_size=64, decoder_start_token_id=0, **sizes)).eval()


@pytest.fixture(scope="module")
def model():
    return tiny_t5()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    """config.json, pytorch_model.bin and spiece.model, as in the official tree."""
    folder = tmp_path_factory.mktemp("google-t5") / "t5-11b"
    folder.mkdir()
    write_tokenizer(folder)
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def encoder(folder):
    return TextEncoder.from_folder(folder, num_tokens=24)


def test_embeddings_are_the_encoders_last_hidden_states(encoder, model):
    embedding = encoder.encode(PROMPTS[:1])[0]
    ids = encoder.tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model.encoder(input_ids=ids).last_hidden_state[0]
    assert embedding.shape == (24, 16)
    assert ids[0, -1] == 1  # the end of the text is a token and counts
    torch.testing.assert_close(embedding[: len(expected)], expected, rtol=1e-5, atol=1e-6)
    assert (embedding[len(expected) :] == 0).all()


def test_the_empty_prompt_is_a_prompt(encoder):
    embedding = encoder.encode([""])[0]
    assert (embedding[0] != 0).any()
    assert (embedding[1:] == 0).all()


def test_an_embedding_does_not_depend_on_its_neighbours(encoder, folder):
    alone = TextEncoder.from_folder(folder, num_tokens=24)
    assert torch.equal(encoder.encode(PROMPTS)[1], alone.encode([PROMPTS[1]])[0])


def test_every_prompt_is_encoded_once(encoder):
    passes = []
    encoder.encoder.register_forward_hook(lambda *_: passes.append(1))
    encoder.encode([PROMPTS[0], PROMPTS[1], PROMPTS[0]])
    encoder.encode(PROMPTS)
    assert len(passes) == 3


def test_what_was_encoded_outlives_the_weights(encoder):
    before = encoder.encode(PROMPTS[:2])
    encoder.free()
    assert torch.equal(encoder.to("cpu").encode(PROMPTS[:2]), before)
    with pytest.raises(UsageError, match=r"freed.*a new one"):
        encoder.encode(["a new one"])


def test_a_prompt_that_is_cut_is_reported(folder, caplog):
    encoder = TextEncoder.from_folder(folder, num_tokens=16)
    with caplog.at_level(logging.WARNING):
        encoder.encode([PROMPTS[0]])
        encoder.encode([PROMPTS[1] * 3])
    (warning,) = [record.message for record in caplog.records if record.name.startswith("guided_transfer")]
    assert "is cut to 16: a robot arm" in warning


def test_rows_after_the_tokens_that_are_read_stay_zero(folder, encoder):
    short = TextEncoder.from_folder(folder, num_tokens=24, prompt_tokens=10)
    prompt = PROMPTS[1] * 3
    (embedding,) = short.encode([prompt])
    assert embedding.shape == encoder.encode([prompt])[0].shape
    assert embedding[:10].abs().amin(0).max() > 0
    assert not embedding[10:].any()
    assert short.too_long([prompt, ""]) == [prompt]
    assert encoder.too_long([""]) == []


def test_a_suffix_is_read_whole_and_the_prompt_before_it_is_cut(folder):
    encoder = TextEncoder.from_folder(folder, num_tokens=24, prompt_tokens=16)
    suffix = " a robot arm"
    assert encoder.joined("short", suffix) == "short" + suffix
    prompt = PROMPTS[1] * 5
    joined = encoder.joined(prompt, suffix)
    kept = joined.removesuffix(suffix)
    assert joined.endswith(suffix)
    assert prompt.startswith(kept)
    assert not encoder.too_long([joined])
    assert encoder.too_long([prompt[: len(kept) + 8] + suffix])  # no more of it fits
    encoder.free()
    assert encoder.joined(prompt, suffix) == joined
    hopeless = PROMPTS[1] * 5  # a suffix that does not fit alone leaves the prompt its place
    assert encoder.joined("short", hopeless) == "short" + hopeless


def test_safetensors_give_the_same(folder, model, tmp_path):
    write_tokenizer(tmp_path)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    same = TextEncoder.from_folder(tmp_path, num_tokens=24).encode(PROMPTS)
    assert torch.equal(same, TextEncoder.from_folder(folder, num_tokens=24).encode(PROMPTS))


def test_a_tree_says_where_and_how_many_tokens(folder):
    tree = CheckpointTree(folder.parent, CheckpointConfig(text_encoder=folder.name, text_tokens=12))
    embeddings = load_text_encoder(tree, device="cpu", dtype=torch.bfloat16).encode(PROMPTS)
    assert embeddings.shape == (3, 12, 16)
    assert embeddings.dtype == torch.bfloat16


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=f"{tmp_path / 't5'}: no config.json"):
        TextEncoder.from_folder(tmp_path / "t5")


def spoil(folder, tmp_path, change):
    """A copy of the folder with other weights."""
    import shutil

    shutil.copytree(folder, tmp_path / "t5")
    weights = torch.load(tmp_path / "t5" / "pytorch_model.bin", weights_only=True)
    torch.save(change(weights), tmp_path / "t5" / "pytorch_model.bin")
    return tmp_path / "t5"


def test_missing_weights_are_named_and_never_made_up(folder, tmp_path):
    key = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    spoiled = spoil(folder, tmp_path, lambda weights: {k: v for k, v in weights.items() if k != key})
    with pytest.raises(CheckpointError, match=f"{spoiled}.*{key}"):
        TextEncoder.from_folder(spoiled)


def test_weights_of_another_size_are_named(folder, tmp_path):
    key = "encoder.final_layer_norm.weight"
    spoiled = spoil(folder, tmp_path, lambda weights: {**weights, key: torch.ones(5)})
    with pytest.raises(CheckpointError, match=rf"{spoiled}: {key} is \[5\], must be \[16\]"):
        TextEncoder.from_folder(spoiled)


class Code:
    def __reduce__(self):
        return print, ("this must never run",)


def test_a_pickle_that_carries_code_is_refused(folder, tmp_path, capsys):
    spoiled = spoil(folder, tmp_path, lambda weights: {**weights, "bad": Code()})
    with pytest.raises(CheckpointError, match=str(spoiled)):
        TextEncoder.from_folder(spoiled)
    assert "never run" not in capsys.readouterr().out


def test_damaged_weights_are_an_error_that_names_the_folder(folder, tmp_path):
    spoiled = spoil(folder, tmp_path, lambda weights: weights)
    whole = (spoiled / "pytorch_model.bin").read_bytes()
    (spoiled / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=str(spoiled)):
        TextEncoder.from_folder(spoiled)
