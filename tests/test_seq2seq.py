"""Homework 4-2, beyond what grader's judges check: against PyTorch's own layers, plain loops and enumeration."""

import itertools
import math

import pytest
import torch
from torch import nn

from common.collate import pad
from data.data import Lang
from data.eng_fra import PairFile
from data.splits import leak

SOS, EOS, PAD = 0, 1, -1
SOURCES = ([5, 3, 8, EOS], [7, EOS], [2, 2, EOS])
TARGETS = ([SOS, 4, EOS], [SOS, 2, 3, 4, EOS], [SOS, EOS])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def batch():
    return pad(SOURCES, PAD)[0], pad(TARGETS, PAD)[0]


def translator(seq2seq, kind="LSTMSeq2Seq", std=0.7):
    """A small model with random parameters, the same for both kinds under the same seed."""
    model = getattr(seq2seq, kind)(9, 5, emb_dim=4, hid_dim=6, device="cpu", dropout=0.5).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


def languages(pairs):
    langs = Lang("fra"), Lang("eng")
    for pair in pairs:
        for lang, sentence in zip(langs, pair, strict=True):
            lang.addSentence(sentence)
    return langs


PAIRS = [["x " * (1 + i % 5) + "abcdefgh"[i % 8], "y " * (1 + i % 3) + "ijklmnop"[i % 8]] for i in range(40)]


# ------------------------------------------------------------------------------------ Part I


@pytest.mark.parametrize("kind", ("LSTMSeq2Seq", "FastSeq2Seq"))
def test_padding_of_any_kind_and_neighbors_change_nothing(seq2seq, batch, kind):
    model = translator(seq2seq, kind)
    output = model(*batch)
    for b, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        alone = model(torch.tensor([source]), torch.tensor([target]))[0]
        assert torch.allclose(output[b, :, : len(target)], alone, atol=1e-12)
    for filler in (PAD, 0, EOS, 8):
        assert torch.allclose(model(nn.functional.pad(batch[0], (0, 3), value=filler), batch[1]), output, atol=1e-12)


def test_perplexity_counts_words_and_eos_alone_however_they_are_batched(seq2seq, batch):
    model, total = translator(seq2seq), 0.0
    for b, target in enumerate(TARGETS):
        log_probs = model(*batch)[b]
        total -= sum(log_probs[word, t].item() for t, word in enumerate(target) if t)
    expected = math.exp(total / (2 + 4 + 1))
    src, trg = batch
    for batches in ([batch], [(src[:1], trg[:1, :3]), (src[1:], trg[1:])]):
        assert seq2seq.perplexity(model, batches) == pytest.approx(expected, rel=1e-9)


def test_a_pass_averages_over_tokens_clips_each_gradient_and_steps_the_schedule(seq2seq, batch):
    model, (src, trg), rates = translator(seq2seq).train(), batch, []
    model.dropout = model.encoder.dropout = model.decoder.dropout = 0.0
    batches, weights = [(src[:1], trg[:1, :3]), (src[1:], trg[1:])], torch.randn(5, 1).double()

    def loss_fn(output, trg):  # it depends on the parameters, but is 1 for the first batch and 2 for the second
        pull = (output * weights).sum()
        return len(trg) + pull - pull.detach()

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 / (1 + i))
    loss = seq2seq.train(
        model, batches, optimizer, loss_fn, 0.01, schedule=schedule, log=lambda loss, rate: rates.append(rate)
    )
    assert loss == pytest.approx((1 * 2 + 2 * 5) / 7) == seq2seq.evaluate(model, batches, loss_fn)
    assert rates == pytest.approx([1e-9, 0.5e-9])
    found = torch.cat([p.grad.flatten() for p in model.parameters()])
    gradient = torch.autograd.grad(loss_fn(model.train()(*batches[1]), trg[1:]), [*model.parameters()])
    alone = torch.cat([g.flatten() for g in gradient])
    assert alone.norm() > 0.1 and torch.allclose(found, 0.01 * alone / alone.norm(), atol=1e-7)


def test_batches_hold_every_pair_once_with_sos_eos_and_padding_to_their_own_longest(seq2seq):
    langs, seen = languages(PAIRS), []
    batches = seq2seq.PairBatches(langs, PAIRS, 16, torch.device("cpu"), shuffle=True)
    for src, trg in batches:
        assert (src != PAD).any(0).all() and (trg != PAD).any(0).all() and (trg[:, 0] == SOS).all()
        sides = []
        for lang, rows in ((langs[0], src), (langs[1], trg[:, 1:])):
            sentences = [[lang.index2word[i] for i in row.tolist() if i != PAD] for row in rows]
            assert all(sentence[-1] == "EOS" for sentence in sentences)
            sides.append([" ".join(sentence[:-1]) for sentence in sentences])
        seen += map(list, zip(*sides, strict=True))
    assert len(batches) == 3 and sorted(seen) == sorted(PAIRS)


def test_fit_repeats_itself_and_resumes_the_same_training_alone(seq2seq, tmp_path, capsys):
    langs = languages(PAIRS)

    def fit(folder, dropout=0.5, **changes):
        config = seq2seq.Config(**{"epochs": 2, "batch_size": 8, **changes})
        make = seq2seq.partial(seq2seq.LSTMSeq2Seq, langs[0].n_words, langs[1].n_words, 4, 4, dropout=dropout)
        model, run = seq2seq.fit(make, langs, PAIRS[:32], PAIRS[32:], config, tmp_path / folder, torch.device("cpu"))
        return torch.cat([p.detach().flatten() for p in model.parameters()]), run

    (weights, run), (again, _) = fit("a"), fit("b")
    assert torch.equal(weights, again) and run.resumed == 0
    assert run.history[1].keys() == {"train_loss", "train_perplexity", "validation_perplexity", "seconds"}
    resumed, second = fit("a", runs="elsewhere")  # where logs go changes no training
    assert second.resumed == 2 and torch.equal(resumed, weights) and second.history == run.history
    changes = {"dropout": 0.1, "smoothing": 0.0, "clip": 0.1, "warmup": 0.5, "learning_rate": 0.1, "seed": 1}
    for change in changes.items():
        other, third = fit("a", **dict([change]))
        assert third.resumed == 0 and not torch.equal(other, weights), change
    epochs, _ = seq2seq.read_run(run.folder)["step/learning_rate"]
    assert epochs == [1, 2]  # also of epochs shorter than ten batches


def test_unknown_words_are_named_with_similar_ones_and_empty_sentences_refused(seq2seq):
    lang = Lang("fra")
    lang.addSentence("bonjour")
    assert seq2seq.read_sentence(lang, "Bonjour") == [2, EOS]
    with pytest.raises(ValueError, match=r"bonjur \(similar: bonjour\)"):
        seq2seq.read_sentence(lang, "bonjur")
    with pytest.raises(ValueError, match="'1, 2' has no words"):
        seq2seq.read_sentence(lang, "1, 2")


# ------------------------------------------------------------------------------------ Part II


@pytest.mark.parametrize(("B", "S", "T"), ((1, 1, 1), (2, 5, 4), (4, 3, 7)))
def test_all_steps_at_once_equal_the_plain_loop_with_gradients(seq2seq, B, S, T):
    plain, fast = translator(seq2seq), translator(seq2seq, "FastSeq2Seq")
    fast.load_state_dict(plain.state_dict())
    src, trg = torch.randint(2, 9, (B, S)), torch.randint(2, 5, (B, T + 1))
    for row in (*src, *trg[:, 1:]):  # ends at random places
        end = int(torch.randint(len(row), ()))
        row[end], row[end + 1 :] = EOS, PAD
    outputs, pull = [model(src, trg) for model in (plain, fast)], torch.randn(B, 5, T + 1).double()
    assert torch.allclose(*outputs, atol=1e-9)
    models = zip(outputs, (plain, fast), strict=True)
    gradients = [torch.autograd.grad((out * pull).sum(), [*model.parameters()]) for out, model in models]
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(*gradients, strict=True))


def test_every_dropout_acts_in_training_alone(seq2seq, batch):
    model = seq2seq.FastSeq2Seq(9, 5, 4, 6, "cpu", dropout=0.0)
    expected = model.eval()(*batch)
    assert torch.allclose(model.train()(*batch), expected)
    places = [(model, "word_dropout"), *((part, "dropout") for part in (model, model.encoder, model.decoder))]
    for part, name in places:
        setattr(part, name, 0.9)
        assert not torch.allclose(model.train()(*batch), expected) and torch.allclose(model.eval()(*batch), expected)
        setattr(part, name, 0.0)


WORDS = {"fra": "important importante porte a", "eng": "important import port ports i"}


def subword_model(seq2seq, **options):
    langs = [Lang(name) for name in WORDS]
    for lang in langs:
        lang.addSentence(WORDS[lang.name])
    options = {"dropout": 0.5, "word_dropout": 0.2, "min_frequency": 2, "device": "cpu", **options}
    model = seq2seq.build_further(langs, 4, 6, **options).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model, langs


def test_a_words_vector_is_its_own_and_those_of_its_ngrams_over_the_root_of_their_number(seq2seq):
    model, langs = subword_model(seq2seq)
    cut = {}  # plain enumeration
    for name, word in [(lang.name, word) for lang in langs for word in lang.word2index]:
        cut[name, word] = [f"<{word}>"[i : i + n] for n in (3, 4, 5) for i in range(len(word) + 3 - n)]
    kept = {key: [g for g in found if sum(g in other for other in cut.values()) >= 2] for key, found in cut.items()}
    assert kept["eng", "i"] == [] and len(kept["fra", "important"]) > 10
    assert model.encoder.embedding.vectors is model.decoder.embedding.vectors
    used = {}
    for side, lang in zip((model.encoder, model.decoder), langs, strict=True):
        for word, index in lang.word2index.items():
            vector, vectors = side.embedding(torch.tensor([[index]]))[0, 0], side.embedding.vectors.weight
            share = torch.autograd.grad(vector[0], vectors)[0][:, 0]  # the weight of each n-gram's vector in the sum
            n = len(kept[lang.name, word])
            assert share[share != 0].tolist() == pytest.approx([max(1, n) ** -0.5] * n)
            assert torch.allclose(vector, side.embedding.own.weight[index] + share @ vectors, atol=1e-12)
            used[lang.name, word] = set(share.nonzero().flatten().tolist())
    for a, b in itertools.combinations(used, 2):  # the same n-gram is the same vector, in both languages
        assert len(used[a] & used[b]) == len(set(kept[a]) & set(kept[b]))
    src, trg = torch.tensor([[2, 4, EOS]]), torch.tensor([[SOS, 3, 6, EOS]])
    output = model(src, trg)  # the words are read and written with these vectors in both loops
    assert torch.allclose(seq2seq.LSTMSeq2Seq.forward(model, src, trg), output, atol=1e-12)
    output.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_each_feature_can_be_switched_off_for_the_ablation(seq2seq):
    plain, _ = subword_model(seq2seq, subwords=False)
    assert type(plain.encoder.embedding) is type(plain.decoder.embedding) is nn.Embedding
    assert plain.decoder.classifier.weight is plain.decoder.embedding.weight
    assert type(subword_model(seq2seq, tied=False)[0].decoder.classifier) is nn.Linear
    left, _ = subword_model(seq2seq, bidirectional=False)
    src, other = torch.tensor([[2, 3, 4, EOS]]), torch.tensor([[2, 3, 5, EOS]])
    assert torch.equal(left.encoder(src)[0][:, :2], left.encoder(other)[0][:, :2])
    assert left.encoder(src)[0].shape == (1, 4, 6) and left.encoder(src)[1].shape == (1, 1, 6)


def test_unseen_sentences_stay_unseen_through_chains_of_equal_sources_and_targets(seq2seq):
    pairs = []
    for word in (f"{a}{b}x" for a in "abcdefghij" for b in "abcdefghij"):  # equal up to contraction, then equal French
        pairs += [[f"je suis {word} .", f"i m {word} ."], [f"moi , je suis {word} .", f"i am {word} ."]]
        pairs += [[f"moi , je suis {word} .", f"i am so {word} ."]]
    train, validation, test = parts = seq2seq.split_unseen(pairs, 1234)
    assert [len(part) for part in parts] == [180, 60, 60] and sorted(train + validation + test) == list(range(300))
    assert leak(pairs, train, test) == leak(pairs, train, validation) == 0
    train, _, test = seq2seq.split_rows(300, 1234)
    assert leak(pairs, train, test) > 0.5 and seq2seq.split_rows(300, 1) != [train, _, test]


def test_pretraining_has_short_known_pairs_alone_and_no_held_out_sentence(seq2seq, tmp_path):
    langs = languages([["je suis pret tom chante .", "i am m ready tom sings ."]])
    lines = {
        "Tom sings.": "Tom chante.",  # begins with no form of the filter: kept, once
        "Tom  sings. ": "Tom, chante.",
        "I am ready.": "Tom chante.",  # a held-out English sentence, contracted there
        "Tom.": "Je suis pret.",  # a held-out French sentence
        "Bob sings.": "Tom chante.",  # an unknown word
        " ".join(["Tom"] * 9): "Tom.",
        " ".join(["Tom"] * 10): "Tom.",
    }
    path = tmp_path / "eng-fra.txt"
    path.write_text("".join(f"{english}\t{french}\n" for english, french in lines.items()), encoding="utf-8")
    kept = seq2seq.similar_pairs(PairFile(path, "real", ""), langs, 10, held_out=[["je suis pret .", "i m ready ."]])
    assert kept == [["tom chante .", "tom sings ."], ["tom .", " ".join(["tom"] * 9)]]


# ------------------------------------------------------------------------------------ search


def plain_beam_search(model, source, beam, length):
    """Beam search on lists, one sentence and one beginning at a time."""
    begun = [(0.0, [SOS])]
    for _ in range(length):
        longer = []
        for score, tokens in begun:
            if tokens[-1] == EOS:
                longer.append((score, [*tokens, EOS]))
                continue
            log_probs = model(torch.tensor([source]), torch.tensor([[*tokens, EOS]]))[0, :, len(tokens)].tolist()
            longer += [(score + log_prob, [*tokens, word]) for word, log_prob in enumerate(log_probs)]
        begun = sorted(longer, reverse=True)[:beam]
    return begun[0][1]


@pytest.mark.parametrize("beam", (1, 2, 3))
def test_batched_search_equals_the_plain_one_and_ends_at_the_longest_length(seq2seq, batch, beam):
    for seed, length in zip(range(15), itertools.cycle((3, 6))):  # fixed, so that nothing hangs on luck
        torch.manual_seed(seed)
        model = translator(seq2seq, std=1.4)  # so that it matters which beginning a state belongs to
        found = seq2seq.beam_search(model, batch[0], beam, length)
        assert found.shape[1] <= 1 + length
        for row, source in zip(found.tolist(), SOURCES, strict=True):
            with torch.no_grad():
                wanted = plain_beam_search(model, source, beam, length)
            assert row[: len(wanted)] == wanted[: len(row)]
        if beam == 1:
            greedy = seq2seq.greedy(model, batch[0], length)
            ended = seq2seq.valid_positions(greedy)[:, : found.shape[1]]
            assert greedy.shape == (3, 1 + length) and torch.equal(greedy[:, : found.shape[1]][ended], found[ended])
    with pytest.raises(ValueError, match="beam is 0: expected at least 1"):
        seq2seq.beam_search(model, batch[0], 0, 6)


def test_a_translation_comes_with_the_probability_and_attention_of_each_word(seq2seq):
    langs = languages(PAIRS)
    model = seq2seq.FastSeq2Seq(langs[0].n_words, langs[1].n_words, 4, 6, "cpu", 0.5)
    one = seq2seq.translate(model, langs, "X x, a", beam=2, max_length=5)
    assert one.french == ["x", "x", "a", "EOS"] and 1 <= len(one.english) <= 5
    assert one.attention.shape == (len(one.english), 4)
    assert torch.allclose(one.attention.sum(1), torch.ones(len(one.english)))
    src = torch.tensor([seq2seq.encode(langs[0], "x x a")])
    trg = torch.tensor([[SOS, *(dict(langs[1].word2index, EOS=EOS, SOS=SOS)[word] for word in one.english)]])
    expected = model.eval()(src, trg)[0].gather(0, trg)[0, 1:].exp()
    assert one.probability == pytest.approx(expected.tolist(), rel=1e-4)


def test_scores_compare_with_one_reference(seq2seq, monkeypatch):
    langs = languages([["a", "b c d e f"], ["a", "g h"]])
    trg, _ = pad([[SOS, 2, 3, 4, 5, 6, EOS], [SOS, 7, 8, EOS]], PAD)
    written, _ = pad([[SOS, 2, 3, 4, 5, 6, EOS], [SOS, 8, 7, EOS]], EOS)
    monkeypatch.setattr(seq2seq, "beam_search", lambda *_: written)
    scores = seq2seq.translation_scores(None, [(trg, trg)], langs[1], 1, 6)
    precisions = (7 / 7, 4 / 5, 3 / 3, 2 / 2)  # of n-grams, by hand: "h g" matches in words, not in pairs
    assert scores.exact == 50 and scores.bleu == pytest.approx(100 * math.prod(precisions) ** 0.25)
