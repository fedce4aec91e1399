"""Homework 4-2: the translation model against PyTorch's own layers and plain enumeration, through the assignment's
interface. Tests without a question are about what our notebook adds to that interface.

A notebook may define ``PAD``, the index that fills up its batches; without one, it is 0.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from questions import question
from rules import RULES, call_violations, module_violations, source_violations
from torch import nn
from torch.nn import functional as F

from common.collate import pad
from data.data import Lang, normalizeString, prepareData

RULE = RULES["hw4_seq2seq"]
SOS, EOS, PAD = 0, 1, -1  # PAD: ours


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def translator(seq2seq) -> nn.Module:
    model = seq2seq.LSTMSeq2Seq(in_dim=9, out_dim=5, emb_dim=4, hid_dim=6, device="cpu", dropout=0.5).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model


@pytest.fixture
def model(seq2seq):
    return translator(seq2seq)


@pytest.fixture(scope="session")
def filler(seq2seq) -> int:
    return getattr(seq2seq, "PAD", 0)


@pytest.fixture
def batch(filler):
    src, _ = pad([[5, 3, 8, EOS], [7, EOS], [2, 2, EOS]], filler)
    trg, _ = pad([[SOS, 4, EOS], [SOS, 2, 3, 4, EOS], [SOS, EOS]], filler)
    return src, trg


def test_lang_counts_words_and_reserves_sos_and_eos():
    lang = Lang("eng")
    assert lang.n_words == 2 and lang.index2word == {0: "SOS", 1: "EOS"}
    lang.addSentence("i am i")
    assert lang.word2index == {"i": 2, "am": 3} and lang.word2count == {"i": 2, "am": 1} and lang.n_words == 4


def test_normalization_keeps_letters_and_sentence_ends():
    assert normalizeString("  J'étais là, à 10h !  ") == "j etais la a h !"
    assert normalizeString("I'm here.") == "i m here ."


def test_prepare_data_filters_reverses_and_counts(tmp_path, capsys):
    (tmp_path / "eng-fra.txt").write_text(
        "I'm fine.\tJe vais bien.\nGo.\tVa !\nShe isn't in.\tElle n'est pas là.\n"
        "You are " + "very " * 8 + "late.\tTu es en retard.\n",
        encoding="utf-8",
    )
    source, target, pairs = prepareData("eng", "fra", reverse=True, folder=tmp_path)
    assert pairs == [["je vais bien .", "i m fine ."], ["elle n est pas la .", "she isn t in ."]]
    assert (source.name, target.name) == ("fra", "eng") and target.n_words == 2 + len("i m fine . she isn t in".split())
    printed = capsys.readouterr().out
    assert "Read 4 " in printed and "Kept 2 " in printed
    assert prepareData("eng", "fra", folder=tmp_path)[2][0] == ["i m fine .", "je vais bien ."]


@pytest.mark.parametrize(
    ("content", "message"),
    (
        ("I'm fine.\n", "line 1"),
        ("I'm fine.\tBien.\nI'm \t\n", "line 2"),
        ("Go.\tVa !\n", "no pair"),
        ("", "no sentence"),
    ),
)
def test_prepare_data_names_what_is_wrong_with_the_file(tmp_path, content, message):
    (tmp_path / "eng-fra.txt").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        prepareData("eng", "fra", folder=tmp_path)


@pytest.mark.parametrize("bidirectional", (False, True))
def test_encoder_equals_a_packed_torch_lstm(seq2seq, bidirectional, batch):
    torch.manual_seed(0)
    encoder = seq2seq.LSTMEncoder(9, 4, 6, bidirectional=bidirectional).double().eval()
    layer = nn.LSTM(4, 3 if bidirectional else 6, batch_first=True, bidirectional=bidirectional).double()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            half = encoder.backwards if name.endswith("_reverse") else encoder.forwards
            parameter.copy_(getattr(half, name.removesuffix("_reverse")))
    src, length = batch[0], torch.tensor([4, 2, 3])
    x = encoder.embedding(src.clamp_min(0))
    packed, (last, _) = layer(nn.utils.rnn.pack_padded_sequence(x, length, batch_first=True, enforce_sorted=False))
    expected, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
    states, hidden, _ = encoder(src)
    there = seq2seq.valid_positions(src)
    assert torch.allclose(states[there], expected[there], atol=1e-12)
    assert torch.allclose(hidden[0], last.transpose(0, 1).flatten(1), atol=1e-12)


def lstm_input(decoder: nn.Module, *arguments: torch.Tensor) -> torch.Tensor:
    """What the decoder's LSTM is given in one step, flattened to ``(B, features)``."""
    seen = []
    layer = next(m for m in decoder.modules() if isinstance(m, nn.LSTM | nn.LSTMCell))
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    decoder(*arguments)
    handle.remove()
    return seen[0].reshape(len(arguments[0]), -1)


@question("2a")
@settings(max_examples=20, deadline=None)
@given(B=st.integers(1, 4), S=st.integers(1, 7))
def test_the_lstm_reads_the_context_that_torchs_attention_gives_for_the_previous_hidden_state(seq2seq, B, S):
    decoder = seq2seq.AttnLSTMDecoder(4, 6, 5, 0.5, enc_hiddens=torch.randn(B, S, 6).double()).double().eval()
    hidden, cell = torch.randn(2, 1, B, 6).double()
    query = hidden.transpose(0, 1)  # (B, 1, H)
    context = F.scaled_dot_product_attention(query, decoder.enc_hiddens, decoder.enc_hiddens, scale=1.0).squeeze(1)
    given = lstm_input(decoder, torch.full((B, 1), 3), hidden, cell)
    assert given.shape[1] == 4 + 6
    assert any(torch.allclose(part, context, atol=1e-9) for part in (given[:, 4:], given[:, :6]))


@question("2a")
def test_one_step_gives_a_distribution_and_the_next_states(seq2seq):
    decoder = seq2seq.AttnLSTMDecoder(4, 6, 5, 0.5, enc_hiddens=torch.randn(3, 7, 6)).eval()
    hidden, cell = torch.randn(2, 1, 3, 6)
    output, *rest = decoder(torch.full((3, 1), 2), hidden, cell)
    assert torch.allclose(output.reshape(3, 5).exp().sum(1), torch.ones(3), atol=1e-5)
    states = [x for x in rest if isinstance(x, torch.Tensor) and x.shape == (1, 3, 6)]
    assert len(states) >= 2 and not torch.equal(states[0], hidden) and not torch.equal(states[1], cell)


@question("2a")
def test_the_decoder_attends_to_one_encoder_state_for_every_source_word(model, batch):
    model(*batch)
    assert model.decoder.enc_hiddens.shape == (3, 4, 6)
    model(batch[0][1:2, :2], batch[1][1:2])
    assert model.decoder.enc_hiddens.shape == (1, 2, 6)


def test_padded_states_get_no_attention(seq2seq):
    decoder = seq2seq.AttnLSTMDecoder(4, 6, 5, 0.5, enc_hiddens=torch.randn(3, 7, 6).double())
    decoder.enc_valid = torch.arange(7) < torch.tensor([[7], [2], [4]])
    query = torch.randn(3, 6).double()
    expected = F.scaled_dot_product_attention(
        query.unsqueeze(1), decoder.enc_hiddens, decoder.enc_hiddens, decoder.enc_valid.unsqueeze(1), scale=1.0
    )
    context, weights = decoder.attend(query)
    assert torch.allclose(context, expected.squeeze(1), atol=1e-9)
    assert not weights[~decoder.enc_valid].any()


def test_decoder_without_encoder_states_says_what_to_set(seq2seq):
    decoder = seq2seq.AttnLSTMDecoder(4, 6, 5, 0.5)
    with pytest.raises(ValueError, match="set enc_hiddens"):
        decoder(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, 6), torch.zeros(1, 1, 6))


@question("2b")
def test_forward_gives_distributions_and_a_zero_first_column(model, batch):
    output = model(*batch)
    assert output.shape == (3, 5, 5) and not output[:, :, 0].any()
    assert torch.allclose(output[:, :, 1:].exp().sum(1), torch.ones(3, 4, dtype=torch.double))
    assert torch.equal(output, model(*batch))


@question("2b")
@settings(max_examples=20, deadline=None)
@given(
    src=st.lists(st.integers(2, 8), max_size=5),
    trg=st.lists(st.integers(2, 4), max_size=5),
    more=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_padding_changes_neither_side_for_any_sentences(seq2seq, filler, src, trg, more):
    model = translator(seq2seq)
    src, trg = torch.tensor([[*src, EOS]]), torch.tensor([[SOS, *trg, EOS]])
    alone = model(src, trg)
    src_pads, trg_pads = (torch.full((1, n), filler, dtype=torch.long) for n in more)
    beside = torch.tensor([[2] * (src.shape[1] + more[0] - 1) + [EOS]])  # a longer neighbor in the batch
    wide = torch.cat([torch.cat([src, src_pads], 1), beside])
    output = model(wide, torch.cat([trg, trg_pads], 1).expand(2, -1))
    assert torch.allclose(output[:1, :, : trg.shape[1]], alone, atol=1e-9)


def test_whatever_stands_behind_eos_is_padding(model, batch):
    src, trg = batch
    output = model(src, trg)
    for filler in (PAD, 0, EOS):
        assert torch.allclose(model(F.pad(src, (0, 3), value=filler), trg), output, atol=1e-12)


@question("2b")
def test_each_word_is_predicted_from_the_references_words_before_it_alone(model, batch):
    src, trg = batch
    changed = trg.clone()
    changed[1, 3] = 2
    before, after = model(src, trg)[1], model(src, changed)[1]
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-12)
    assert not torch.allclose(before[:, 4], after[:, 4], atol=1e-3)  # fed with the reference, not with its own word


@question("2b")
def test_the_source_sentence_matters_word_by_word(model, batch):
    src, trg = batch
    for place in range(3):
        changed = src.clone()
        changed[0, place] = 6
        assert not torch.allclose(model(src, trg)[0], model(changed, trg)[0], atol=1e-6)


@question("2b")
def test_every_parameter_gets_a_gradient(model, batch, filler):
    output = model.train()(*batch)
    nn.NLLLoss(ignore_index=filler)(output[:, :, 1:], batch[1][:, 1:]).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@question("2a")
@question("2b")
def test_no_ready_made_attention_is_in_the_source(notebook):
    assert [str(violation) for violation in source_violations(notebook, RULE)] == []


@question("2a")
@question("2b")
def test_no_ready_made_attention_is_in_the_built_model_or_called_by_it(model, batch):
    assert module_violations(model, RULE) == []
    assert call_violations(lambda: model(*batch), RULE) == []


def test_a_source_of_padding_alone_is_refused(model, batch):
    with pytest.raises(ValueError, match="nothing but padding"):
        model(torch.full((1, 3), PAD), batch[1][:1])


def test_perplexity_counts_words_and_eos_alone(seq2seq, model, batch):
    src, trg = batch
    total, count = 0.0, 0
    log_probs = model(src, trg)
    for b, t in itertools.product(range(3), range(1, 5)):
        if trg[b, t] != PAD:
            total, count = total - log_probs[b, trg[b, t], t].item(), count + 1
    assert count == 2 + 4 + 1
    together = seq2seq.perplexity(model, [(src, trg)])
    assert together == pytest.approx(math.exp(total / count), rel=1e-9)
    apart = seq2seq.perplexity(model, [(src[:1], trg[:1, :3]), (src[1:], trg[1:])])
    assert apart == pytest.approx(together, rel=1e-9)


@question("2c")
def test_train_takes_the_harness_loss_and_learns(seq2seq, batch, filler):
    model = seq2seq.LSTMSeq2Seq(9, 5, 8, 8, "cpu", dropout=0.0)
    optimizer, loss_fn = torch.optim.Adam(model.parameters(), lr=0.02), nn.NLLLoss(ignore_index=filler)
    first = seq2seq.train(model, [batch], optimizer, loss_fn, 1.0)
    for _ in range(60):
        last = seq2seq.train(model, [batch], optimizer, loss_fn, 1.0)
    assert last < 0.1 < first


@question("2c")
def test_evaluate_changes_nothing_and_is_deterministic(seq2seq, model, batch, filler):
    before, loss_fn = [p.clone() for p in model.parameters()], nn.NLLLoss(ignore_index=filler)
    assert seq2seq.evaluate(model.train(), [batch], loss_fn) == seq2seq.evaluate(model.train(), [batch], loss_fn)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_train_updates_the_schedule_every_batch(seq2seq, model, batch):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 / (1 + i))
    seq2seq.train(model, [batch] * 3, optimizer, seq2seq.translation_loss, 1.0, schedule)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1 / 4)


@settings(max_examples=20, deadline=None)
@given(B=st.integers(1, 3), T=st.integers(1, 6), S=st.integers(1, 5))
def test_all_steps_at_once_equal_the_decoder_step_by_step_with_gradients(seq2seq, B, T, S):
    model = translator(seq2seq)
    src, trg = torch.randint(2, 9, (B, S)), torch.randint(2, 5, (B, T + 1))
    src[:, -1] = EOS
    together, weights = model.decode(src, trg)
    (hidden, cell), apart = model.encode(src), []
    for t in range(T):
        log_probs, hidden, cell, weight = model.decoder(trg[:, t : t + 1], hidden, cell)
        assert torch.allclose(weights[:, t], weight, atol=1e-9)
        apart.append(log_probs)
    apart, pull = torch.stack(apart, 1), torch.randn(B, T, 5, dtype=torch.double)
    assert torch.allclose(together, apart, atol=1e-9)
    grads = [torch.autograd.grad((out * pull).sum(), [*model.parameters()]) for out in (together, apart)]
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(*grads, strict=True))


def enumerate_best(model, src, length):
    """The likeliest of all sentences of at most ``length`` tokens, by trying each."""
    best = (-math.inf, None)
    for n in range(length):
        for body in itertools.product((0, 2, 3, 4), repeat=n):
            trg = torch.tensor([[SOS, *body, EOS]])
            log_probs = model(src, trg)[0]
            score = sum(log_probs[word, t].item() for t, word in enumerate(trg[0].tolist()) if t)
            best = max(best, (score, trg[0].tolist()))
    return best[1]


def test_a_beam_wide_enough_finds_the_likeliest_sentence(seq2seq, model):
    with torch.no_grad():
        model.decoder.classifier.bias[EOS] = 3.0  # so that the likeliest sentence is a short one
        for source in ([5, 3, EOS], [7, EOS], [2, 8, 6, EOS]):
            src = torch.tensor([source])
            found = seq2seq.translate(model, src, beam=125, max_length=4)[0].tolist()
            assert found[: found.index(EOS) + 1] == enumerate_best(model, src, 4)


def plain_beam_search(model, src, beam, length):
    """Beam search on lists, one sentence and one beginning at a time."""
    begun = [(0.0, [SOS])]
    for _ in range(length):
        longer = []
        for score, tokens in begun:
            if tokens[-1] == EOS:
                longer.append((score, [*tokens, EOS]))
                continue
            log_probs = model(src, torch.tensor([[*tokens, EOS]]))[0, :, len(tokens)].tolist()
            longer += [(score + log_prob, [*tokens, word]) for word, log_prob in enumerate(log_probs)]
        begun = sorted(longer, reverse=True)[:beam]
    return begun[0][1]


@pytest.mark.parametrize("beam", (1, 2, 3, 4))
def test_batched_beam_search_equals_the_plain_one(seq2seq, beam):
    sources = [[5, 3, 8, EOS], [7, 2, EOS], [3, EOS]]
    src, _ = pad(sources, PAD)
    for seed in range(25):  # fixed, so that what this notices does not hang on luck
        torch.manual_seed(seed)
        model = translator(seq2seq)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)  # so that it matters which beginning a state belongs to
            model.decoder.classifier.bias[EOS] += 1.0  # so that sentences end at different lengths
            found = seq2seq.translate(model, src, beam, max_length=5)
            for row, alone in zip(found.tolist(), sources, strict=True):
                wanted = plain_beam_search(model, torch.tensor([alone]), beam, 5)
                assert row[: len(wanted)] == wanted[: len(row)]


def test_greedy_search_takes_the_likeliest_word_each_time_whatever_the_batch(seq2seq, model, batch):
    src = batch[0]
    together = seq2seq.translate(model, src, beam=1, max_length=6)
    for b in range(3):
        tokens = [SOS]
        while tokens[-1] != EOS and len(tokens) < 7:
            tokens.append(int(model(src[b : b + 1], torch.tensor([[*tokens, EOS]]))[0, :, len(tokens)].argmax()))
        assert together[b].tolist()[: len(tokens)] == tokens


def test_splits_share_nothing_and_unseen_sentences_stay_unseen(seq2seq):
    parts = seq2seq.split_pairs(1000, 1234)
    assert [len(p) for p in parts] == [600, 200, 200] and sorted(i for part in parts for i in part) == list(range(1000))
    assert parts == seq2seq.split_pairs(1000, 1234) != seq2seq.split_pairs(1000, 1)
    pairs = [[f"f{i}", f"e{i % 40}"] for i in range(100)]
    train, validation, test = ({pairs[i][1] for i in rows} for rows in seq2seq.split_sentences(pairs, 1234))
    assert not train & test and not train & validation and not validation & test
    assert len(train | validation | test) == 40


def test_an_unknown_word_is_named_with_similar_ones(seq2seq):
    lang = Lang("fra")
    lang.addSentence("bonjour")
    with pytest.raises(ValueError, match=r"bonjur \(similar: bonjour\)"):
        seq2seq.encode(lang, "bonjur")
