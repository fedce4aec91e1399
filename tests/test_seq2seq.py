"""Homework 4-2: the translation model against PyTorch's own layers, plain loops and plain enumeration."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from common.collate import pad
from data.data import Lang, normalizeString, prepareData

SOS, EOS, PAD = 0, 1, -1
LENGTHS = (4, 2, 3)  # of the source sentences in the batch below


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def translator(seq2seq, kind: str = "FastSeq2Seq") -> nn.Module:
    """A small model with random parameters, the same for both kinds under the same seed."""
    model = getattr(seq2seq, kind)(in_dim=9, out_dim=5, emb_dim=4, hid_dim=6, device="cpu", dropout=0.5)
    model = model.double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model


@pytest.fixture(params=("LSTMSeq2Seq", "FastSeq2Seq"))
def model(seq2seq, request):
    return translator(seq2seq, request.param)


@pytest.fixture
def fast(seq2seq):
    return translator(seq2seq)


@pytest.fixture
def batch():
    src, _ = pad([[5, 3, 8, EOS], [7, EOS], [2, 2, EOS]], PAD)
    trg, _ = pad([[SOS, 4, EOS], [SOS, 2, 3, 4, EOS], [SOS, EOS]], PAD)
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


def test_prepare_data_refuses_a_file_of_which_it_keeps_nothing(tmp_path):
    (tmp_path / "eng-fra.txt").write_text("Go.\tVa !\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no pair"):
        prepareData("eng", "fra", folder=tmp_path)


@pytest.mark.parametrize(("hid_dim", "bidirectional"), ((6, True), (6, False), (5, True)))
def test_the_encoder_equals_two_lstms_that_read_each_sentence_alone(seq2seq, batch, hid_dim, bidirectional):
    encoder = seq2seq.LSTMEncoder(9, 4, hid_dim, dropout=0.5, bidirectional=bidirectional).double().eval()
    both = bidirectional and hid_dim == 6  # an odd width is read from the left alone
    src, length = batch[0], LENGTHS
    states, hidden, cell = encoder(F.pad(src, (0, 2), value=PAD))
    assert states.shape == (3, 6, hid_dim) and hidden.shape == cell.shape == (1, 3, hid_dim)
    for b, n in enumerate(length):
        x = encoder.embedding(src[b : b + 1, :n])
        expected = []
        for suffix in ("", "_reverse")[: 1 + both]:
            layer = nn.LSTM(4, hid_dim // (1 + both), batch_first=True).double()
            weights = {name: getattr(encoder.lstm, name + suffix).detach() for name in layer.state_dict()}
            layer.load_state_dict(weights)
            out, (last, memory) = layer(x.flip(1) if suffix else x)
            expected.append((out.flip(1) if suffix else out, last[0], memory[0]))
        out, last, memory = (torch.cat(parts, -1)[0] for parts in zip(*expected, strict=True))
        assert torch.allclose(states[b, :n], out, atol=1e-12) and not states[b, n:].any()
        assert torch.allclose(hidden[0, b], last, atol=1e-12) and torch.allclose(cell[0, b], memory, atol=1e-12)


def test_the_decoder_starts_from_the_encoders_last_hidden_and_cell(fast, batch):
    _, *expected = fast.encoder(batch[0])
    assert all(torch.equal(a, b) and a.any() for a, b in zip(fast.encode(batch[0]), expected, strict=True))


def lstm_input(decoder: nn.Module, *arguments: torch.Tensor) -> torch.Tensor:
    """What the decoder's LSTM is given in one step, flattened to ``(B, features)``."""
    seen = []
    handle = decoder.lstm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    decoder(*arguments)
    handle.remove()
    return seen[0].reshape(len(arguments[0]), -1)


@settings(max_examples=20, deadline=None)
@given(B=st.integers(1, 4), S=st.integers(1, 7))
def test_the_lstm_reads_the_context_that_torchs_attention_gives_for_the_previous_hidden_state(seq2seq, B, S):
    decoder = seq2seq.AttnLSTMDecoder(4, 6, 5, 0.5, enc_hiddens=torch.randn(B, S, 6).double()).double().eval()
    hidden, cell = torch.randn(2, 1, B, 6).double()
    query = hidden.transpose(0, 1)  # (B, 1, H)
    context = F.scaled_dot_product_attention(query, decoder.enc_hiddens, decoder.enc_hiddens, scale=1.0).squeeze(1)
    given = lstm_input(decoder, torch.full((B, 1), 3), hidden, cell)
    assert given.shape[1] == 4 + 6 and torch.allclose(given[:, 4:], context, atol=1e-9)


def test_one_step_gives_a_distribution_and_the_next_states(seq2seq):
    decoder = seq2seq.AttnLSTMDecoder(4, 6, 5, 0.5, enc_hiddens=torch.randn(3, 7, 6)).eval()
    hidden, cell = torch.randn(2, 1, 3, 6)
    output, next_hidden, next_cell, weights = decoder(torch.full((3, 1), 2), hidden, cell)
    assert torch.allclose(output.exp().sum(1), torch.ones(3)) and torch.allclose(weights.sum(1), torch.ones(3))
    assert next_hidden.shape == next_cell.shape == (1, 3, 6)
    assert not torch.equal(next_hidden, hidden) and not torch.equal(next_cell, cell)


def test_the_decoder_attends_to_one_encoder_state_for_every_source_word(model, batch):
    model(*batch)
    assert model.decoder.enc_hiddens.shape == (3, 4, 6)
    model(batch[0][1:2, :2], batch[1][1:2])
    assert model.decoder.enc_hiddens.shape == (1, 2, 6)


def test_padded_states_get_no_attention(seq2seq):
    decoder = seq2seq.AttnLSTMDecoder(4, 6, 5, 0.5)
    decoder.attend_to(torch.randn(3, 7, 6).double(), torch.arange(7) < torch.tensor([[7], [2], [4]]))
    query = torch.randn(3, 6).double()
    expected = F.scaled_dot_product_attention(
        query.unsqueeze(1), decoder.enc_hiddens, decoder.enc_hiddens, decoder.enc_valid.unsqueeze(1), scale=1.0
    )
    context, weights = decoder.attend(query)
    assert torch.allclose(context, expected.squeeze(1), atol=1e-9)
    assert not weights[~decoder.enc_valid].any()


def test_states_assigned_after_a_forward_meet_no_mask_of_the_former_ones(fast, batch):
    fast(*batch)
    hidden, cell, states = torch.randn(1, 3, 6).double(), torch.randn(1, 3, 6).double(), torch.randn(3, 4, 6).double()
    fast.decoder.enc_hiddens = states  # as many as before, but none of them is padding
    weights = fast.decoder(torch.full((3, 1), 2), hidden, cell)[3]
    expected = torch.einsum("bh,bsh->bs", hidden[0], states).softmax(1)
    assert fast.decoder.enc_hiddens is states and torch.allclose(weights, expected)


def test_decoder_without_encoder_states_tells_what_to_set(seq2seq):
    decoder = seq2seq.AttnLSTMDecoder(4, 6, 5, 0.5)
    with pytest.raises(ValueError, match="set enc_hiddens"):
        decoder(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, 6), torch.zeros(1, 1, 6))


def test_forward_gives_distributions_and_a_zero_first_column(model, batch):
    output = model(*batch)
    assert output.shape == (3, 5, 5) and not output[:, :, 0].any()
    assert torch.allclose(output[:, :, 1:].exp().sum(1), torch.ones(3, 4, dtype=torch.double))
    assert torch.equal(output, model(*batch))


@settings(max_examples=20, deadline=None)
@given(
    src=st.lists(st.integers(2, 8), max_size=5),
    trg=st.lists(st.integers(2, 4), max_size=5),
    more=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_padding_changes_neither_side_for_any_sentences(seq2seq, src, trg, more):
    model = translator(seq2seq)
    src, trg = torch.tensor([[*src, EOS]]), torch.tensor([[SOS, *trg, EOS]])
    alone = model(src, trg)
    src_pads, trg_pads = (torch.full((1, n), PAD, dtype=torch.long) for n in more)
    beside = torch.tensor([[2] * (src.shape[1] + more[0] - 1) + [EOS]])  # a longer neighbor in the batch
    wide = torch.cat([torch.cat([src, src_pads], 1), beside])
    output = model(wide, torch.cat([trg, trg_pads], 1).expand(2, -1))
    assert torch.allclose(output[:1, :, : trg.shape[1]], alone, atol=1e-9)


def test_whatever_stands_behind_eos_is_padding(model, batch):
    src, trg = batch
    output = model(src, trg)
    for filler in (PAD, 0, EOS):
        assert torch.allclose(model(F.pad(src, (0, 3), value=filler), trg), output, atol=1e-12)


def test_each_word_is_predicted_from_the_references_words_before_it_alone(model, batch):
    src, trg = batch
    changed = trg.clone()
    changed[1, 3] = 2
    before, after = model(src, trg)[1], model(src, changed)[1]
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-12)
    assert not torch.allclose(before[:, 4], after[:, 4], atol=1e-3)  # fed with the reference, not with its own word


def test_the_source_sentence_matters_word_by_word(model, batch):
    src, trg = batch
    for place in range(3):
        changed = src.clone()
        changed[0, place] = 6
        assert not torch.allclose(model(src, trg)[0], model(changed, trg)[0], atol=1e-6)


def test_every_parameter_gets_a_gradient(model, batch):
    output = model.train()(*batch)
    nn.NLLLoss(ignore_index=PAD)(output[:, :, 1:], batch[1][:, 1:]).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_source_of_padding_alone_is_refused(model, batch):
    with pytest.raises(ValueError, match="nothing but padding"):
        model(torch.full((1, 3), PAD), batch[1][:1])


def test_perplexity_counts_words_and_eos_alone(seq2seq, fast, batch):
    model = fast
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


@pytest.mark.parametrize("kind", ("LSTMSeq2Seq", "FastSeq2Seq"))
def test_train_takes_the_harness_loss_and_learns(seq2seq, batch, kind):
    model = getattr(seq2seq, kind)(9, 5, 8, 8, "cpu", dropout=0.0)
    optimizer, loss_fn = torch.optim.Adam(model.parameters(), lr=0.02), nn.NLLLoss(ignore_index=PAD)
    first = seq2seq.train(model, [batch], optimizer, loss_fn, 1.0)
    for _ in range(60):
        last = seq2seq.train(model, [batch], optimizer, loss_fn, 1.0)
    assert last < 0.1 < first


def test_each_step_follows_the_clipped_gradient_of_its_own_batch(seq2seq, fast, batch):
    src, trg = batch
    batches = [(src[:1], trg[:1]), (src[1:], trg[1:])]
    fast.encoder.dropout = fast.decoder.dropout = fast.dropout = 0.0
    before = [p.detach().clone() for p in fast.parameters()]
    seq2seq.train(fast, batches, torch.optim.SGD(fast.parameters(), lr=0.0), seq2seq.translation_loss, clip=0.01)
    found = torch.cat([p.grad.flatten() for p in fast.parameters()])
    loss = seq2seq.translation_loss(fast(*batches[1]), batches[1][1])
    alone = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(fast.parameters()))])
    assert alone.norm() > 0.01 and torch.allclose(found, 0.01 * alone / alone.norm(), atol=1e-7)
    assert all(torch.equal(a, b) for a, b in zip(before, fast.parameters(), strict=True))


def test_evaluate_changes_nothing_and_is_deterministic(seq2seq, fast, batch):
    before, loss_fn = [p.clone() for p in fast.parameters()], nn.NLLLoss(ignore_index=PAD)
    assert seq2seq.evaluate(fast.train(), [batch], loss_fn) == seq2seq.evaluate(fast.train(), [batch], loss_fn)
    assert all(torch.equal(a, b) for a, b in zip(before, fast.parameters(), strict=True))


def test_train_and_evaluate_average_over_target_tokens(seq2seq, fast, batch):
    src, trg = batch
    batches = [(src[:1], trg[:1, :3]), (src[1:], trg[1:])]  # 2 and 5 target tokens

    def loss_fn(output, trg):
        return output.sum() * 0 + len(trg)  # 1.0, then 2.0

    expected = (1 * 2 + 2 * 5) / 7
    assert seq2seq.evaluate(fast, batches, loss_fn) == pytest.approx(expected)
    optimizer = torch.optim.SGD(fast.parameters(), lr=0.0)
    assert seq2seq.train(fast, batches, optimizer, loss_fn, 1.0) == pytest.approx(expected)


def test_train_updates_the_schedule_every_batch_and_reports_the_rate_of_each_step(seq2seq, fast, batch):
    class Recorder:
        rates = ()

        def step(self, loss, learning_rate):
            self.rates += (learning_rate,)

    optimizer, run = torch.optim.SGD(fast.parameters(), lr=1.0), Recorder()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 / (1 + i))
    seq2seq.train(fast, [batch] * 3, optimizer, seq2seq.translation_loss, 1.0, schedule=schedule, run=run)
    assert run.rates == pytest.approx((1, 1 / 2, 1 / 3))


def test_the_learning_rate_rises_and_falls_over_all_steps(seq2seq):
    config = seq2seq.Config(learning_rate=0.5, warmup=0.2)
    optimizer, schedule = seq2seq.make_optimizer(nn.Linear(1, 1), config, total_steps=20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5]) and max(rates) == 0.5
    assert rates[11] == pytest.approx(0.25) and rates[19] == pytest.approx(0) and rates[4:] == sorted(rates[4:])[::-1]


@settings(max_examples=20, deadline=None)
@given(data=st.data(), B=st.integers(1, 3), T=st.integers(1, 6), S=st.integers(1, 5))
def test_all_steps_at_once_equal_the_plain_loop_with_gradients(seq2seq, data, B, T, S):
    plain, fast = translator(seq2seq, "LSTMSeq2Seq"), translator(seq2seq, "FastSeq2Seq")
    fast.load_state_dict(plain.state_dict())
    src, trg = torch.randint(2, 9, (B, S)), torch.randint(2, 5, (B, T + 1))
    for tokens in (src, trg[:, 1:]):  # ends at random places
        for row in tokens:
            end = data.draw(st.integers(0, len(row) - 1))
            row[end], row[end + 1 :] = EOS, PAD
    outputs, pull = [model(src, trg) for model in (plain, fast)], torch.randn(B, 5, T + 1, dtype=torch.double)
    assert torch.allclose(*outputs, atol=1e-9)
    models = zip(outputs, (plain, fast), strict=True)
    gradients = [torch.autograd.grad((out * pull).sum(), [*model.parameters()]) for out, model in models]
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(*gradients, strict=True))


WORDS = {"fra": "important importante porte a", "eng": "important import port ports i"}


@pytest.fixture
def spelled(seq2seq):
    """A model whose words know their spelling, its languages, and their pieces that occur in two words or more."""
    langs = [Lang(name) for name in WORDS]
    for lang in langs:
        lang.addSentence(WORDS[lang.name])
    torch.manual_seed(0)
    config = seq2seq.Config(emb_dim=4, hid_dim=6, min_piece_frequency=2)
    model = seq2seq.build_spelled(langs, config, "cpu").double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    cut = {}
    for lang, word in [(source, word) for source in langs for word in source.word2index]:
        ends = [(i, i + n) for n in (3, 4, 5) for i in range(len(word) + 3 - n)]
        cut[lang, word] = [f"<{word}>"[i:j] for i, j in ends]
    kept = {key: [p for p in found if sum(p in other for other in cut.values()) >= 2] for key, found in cut.items()}
    return model, langs, kept


def test_a_words_vector_is_its_own_and_those_of_its_pieces_over_the_root_of_their_number(spelled):
    model, langs, kept = spelled
    assert kept[langs[1], "i"] == [] and len(kept[langs[0], "important"]) > 10
    found = {}
    for side, lang in zip((model.encoder, model.decoder), langs, strict=True):
        for word, index in lang.word2index.items():
            vector, vectors = side.embedding(torch.tensor([[index]]))[0, 0], side.embedding.vectors.weight
            (share,) = torch.autograd.grad(vector[0], vectors)  # with which weight each piece's vector takes part
            n = len(kept[lang, word])
            assert share[:, 0].sort(descending=True).values[:n].tolist() == pytest.approx([max(1, n) ** -0.5] * n)
            assert int(share.count_nonzero()) == n
            assert torch.allclose(vector, side.embedding.own.weight[index] + share[:, 0] @ vectors, atol=1e-12)
            found[lang, word] = set(share[:, 0].nonzero().flatten().tolist())
    assert model.encoder.embedding.vectors is model.decoder.embedding.vectors
    for a, b in itertools.combinations(found, 2):  # the same piece is the same vector, in both languages
        assert len(found[a] & found[b]) == len(set(kept[a]) & set(kept[b]))


def test_spelled_words_are_read_and_written_with_the_same_vectors_in_both_loops(seq2seq, spelled):
    model, langs, _ = spelled
    src, trg = torch.randint(2, 6, (3, 4)), torch.randint(2, 7, (3, 5))
    src[:, -1] = trg[:, -1] = EOS
    trg[:, 0] = SOS
    output = model(src, trg)
    assert torch.allclose(seq2seq.LSTMSeq2Seq.forward(model, src, trg), output, atol=1e-12)
    vectors = model.decoder.embedding(torch.arange(langs[1].n_words))
    x = torch.randn(2, 3, 4, dtype=torch.double)
    expected = torch.einsum("bte,ve->btv", x, vectors) + model.decoder.classifier.bias
    assert torch.allclose(model.decoder.classifier(x), expected, atol=1e-12)
    output.sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_without_spelling_every_word_has_its_own_vector_alone(seq2seq, spelled):
    plain = seq2seq.build_spelled(spelled[1], seq2seq.Config(emb_dim=4, hid_dim=6, spelling=False), "cpu")
    assert type(plain.encoder.embedding) is type(plain.decoder.embedding) is nn.Embedding
    assert plain.decoder.classifier.weight is plain.decoder.embedding.weight


@pytest.mark.parametrize("kind", ("LSTMSeq2Seq", "FastSeq2Seq"))
def test_dropout_and_word_dropout_act_in_training_alone(seq2seq, batch, kind):
    torch.manual_seed(0)
    model = getattr(seq2seq, kind)(9, 5, 4, 6, "cpu", 0.0, word_dropout=0.9)
    expected = model.eval()(*batch)
    hidden_words = model.train()(*batch)
    assert not torch.allclose(hidden_words[:, :, 1:], expected[:, :, 1:])
    model.decoder.word_dropout = 0.0
    assert torch.allclose(model.train()(*batch), expected)
    for part in (model, model.encoder, model.decoder):
        part.dropout = 0.5
        assert not torch.allclose(model.train()(*batch), expected) and torch.allclose(model.eval()(*batch), expected)
        part.dropout = 0.0


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


def test_a_beam_wide_enough_finds_the_likeliest_sentence(seq2seq, fast):
    model = fast
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


@pytest.mark.parametrize("beam", (0, -1))
def test_a_beam_below_one_is_refused(seq2seq, fast, batch, beam):
    with pytest.raises(ValueError, match=f"beam is {beam}: expected at least 1"):
        seq2seq.translate(fast, batch[0], beam)


def test_greedy_search_takes_the_likeliest_word_each_time_whatever_the_batch(seq2seq, fast, batch):
    model, src = fast, batch[0]
    together = seq2seq.translate(model, src, beam=1, max_length=6)
    for b in range(3):
        tokens = [SOS]
        while tokens[-1] != EOS and len(tokens) < 7:
            tokens.append(int(model(src[b : b + 1], torch.tensor([[*tokens, EOS]]))[0, :, len(tokens)].argmax()))
        assert together[b].tolist()[: len(tokens)] == tokens


def test_the_handouts_split_is_at_random_and_shares_nothing(seq2seq):
    parts = seq2seq.split_pairs(1000, 1234)
    assert [len(p) for p in parts] == [600, 200, 200] and sorted(i for part in parts for i in part) == list(range(1000))
    assert parts == seq2seq.split_pairs(1000, 1234) != seq2seq.split_pairs(1000, 1)


def test_unseen_sentences_stay_unseen_through_chains_of_equal_sources_and_targets(seq2seq):
    pairs = []
    for k in range(100):  # a chain: the same target, then the same source, then the same up to contraction
        word = f"{chr(97 + k // 10)}{chr(97 + k % 10)}x"
        pairs += [
            [f"je suis {word} .", f"i m {word} ."],
            [f"moi , je suis {word} .", f"i am {word} ."],
            [f"moi , je suis {word} .", f"i am so {word} ."],
        ]
    parts = seq2seq.split_unseen(pairs, 1234)
    assert [len(part) for part in parts] == [180, 60, 60]
    assert sorted(row for part in parts for row in part) == list(range(300))
    part_of = {row: number for number, part in enumerate(parts) for row in part}
    assert all(part_of[3 * k] == part_of[3 * k + 1] == part_of[3 * k + 2] for k in range(100))
    train, validation, test = parts
    assert seq2seq.eng_fra.leak(pairs, train, test) == seq2seq.eng_fra.leak(pairs, train, validation) == 0
    assert seq2seq.eng_fra.leak(pairs, *seq2seq.split_pairs(300, 1234)[::2]) > 0.5


def languages(pairs):
    langs = Lang("fra"), Lang("eng")
    for pair in pairs:
        for lang, sentence in zip(langs, pair, strict=True):
            lang.addSentence(sentence)
    return langs


PAIRS = [["x " * (1 + i % 5) + "abcdefgh"[i % 8], "y " * (1 + i % 3) + "ijklmnop"[i % 8]] for i in range(40)]


def test_batches_hold_every_pair_once_with_sos_eos_and_padding_to_their_own_longest(seq2seq):
    langs = languages(PAIRS)
    batches = seq2seq.PairBatches(langs, PAIRS, 16, torch.device("cpu"), shuffle=True)
    seen = {"fra": [], "eng": []}
    for src, trg in batches:
        assert (src != PAD).any(0).all() and (trg != PAD).any(0).all() and (trg[:, 0] == SOS).all()
        for lang, rows in ((langs[0], src), (langs[1], trg[:, 1:])):
            sentences = [[lang.index2word[i] for i in row.tolist() if i != PAD] for row in rows]
            assert all(sentence[-1] == "EOS" for sentence in sentences)
            seen[lang.name] += [" ".join(sentence[:-1]) for sentence in sentences]
    assert len(batches) == 3 and sorted(map(list, zip(*seen.values(), strict=True))) == sorted(PAIRS)


@pytest.fixture
def quick(seq2seq):
    sizes = dict(emb_dim=4, hid_dim=4, epochs=2, batch_size=8)
    return seq2seq.Config(**sizes)


def test_watched_training_pairs_are_a_random_sample_of_them(seq2seq, quick, tmp_path, monkeypatch):
    pairs = [["x " * (1 + i // 8) + "a", "y"] for i in range(64)]  # longer and longer, as in the file
    measured = []

    def perplexity(model, iterator):
        measured.append(iterator.src_length)
        return 1.0

    monkeypatch.setattr(seq2seq, "WATCHED", 16)
    monkeypatch.setattr(seq2seq, "perplexity", perplexity)
    seq2seq.fit(languages(pairs), pairs, pairs[:8], quick, str(tmp_path), torch.device("cpu"), shown=False)
    watched, validation, again, _ = measured
    assert len(watched) == 16 and len(validation) == 8 and torch.equal(watched, again)
    mean = watched.float().mean().item()  # of all training pairs 6.5, of the first 16 only 3.5
    assert 5.5 < mean < 7.5
    assert seq2seq.sample(range(9), 5, 0) != seq2seq.sample(range(9), 5, 1)
    assert sorted(seq2seq.sample(range(9), 20, 0)) == list(range(9))


def test_fit_repeats_itself_and_reuses_final_weights_of_the_same_settings_alone(seq2seq, quick, tmp_path, capsys):
    langs, device = languages(PAIRS), torch.device("cpu")

    def fit(folder, **changes):
        config = seq2seq.replace(quick, **changes)
        return seq2seq.fit(langs, PAIRS[:32], PAIRS[32:], config, str(tmp_path / folder), device, shown=False)

    (model, history), (again, _) = fit("a"), fit("b")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    assert [set(row) for row in history] == [{"train_loss", "train_perplexity", "validation_perplexity", "seconds"}] * 2
    seq2seq.finish(tmp_path / "a", {})
    reused, restored = fit("a", reuse=True, beam=3)  # the beam changes no training
    assert restored == history
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), reused.parameters(), strict=True))
    assert fit("a", reuse=True, dropout=0.1)[1] != history and "dropout" in capsys.readouterr().out


def test_one_sentence_comes_with_the_probability_and_attention_of_each_word(seq2seq):
    torch.manual_seed(1)
    langs = languages(PAIRS)
    model = seq2seq.FastSeq2Seq(langs[0].n_words, langs[1].n_words, 4, 6, "cpu", 0.5)
    with torch.no_grad():
        model.decoder.classifier.bias[EOS] = 2.0
    one = seq2seq.translate_sentence(model, langs, "X x, a", beam=2)
    assert one.french == ["x", "x", "a", "EOS"]
    assert one.attention.shape == (len(one.english), 4)
    assert torch.allclose(one.attention.sum(1), torch.ones(len(one.english)))
    src = torch.tensor([seq2seq.encode(langs[0], "x x a")])
    trg = torch.tensor([[SOS, *(dict(langs[1].word2index, EOS=EOS, SOS=SOS)[word] for word in one.english)]])
    expected = model.eval()(src, trg)[0].gather(0, trg)[0, 1:].exp()
    assert one.probability == pytest.approx(expected.tolist(), rel=1e-4)
    with pytest.raises(ValueError, match="has no words"):
        seq2seq.translate_sentence(model, langs, "1, 2", beam=2)


def test_scores_compare_with_one_reference(seq2seq, monkeypatch):
    langs = languages([["a", "b c d e f"], ["a", "g h"]])
    trg, _ = pad([[SOS, 2, 3, 4, 5, 6, EOS], [SOS, 7, 8, EOS]], PAD)
    written, _ = pad([[SOS, 2, 3, 4, 5, 6, EOS], [SOS, 8, 7, EOS]], EOS)
    monkeypatch.setattr(seq2seq, "translate", lambda model, src, beam: written)
    scores = seq2seq.translation_scores(None, [(trg, trg)], langs[1], beam=1)
    precisions = (7 / 7, 4 / 5, 3 / 3, 2 / 2)  # of n-grams, by hand: "h g" matches in words, not in pairs
    assert scores.exact == 50 and scores.bleu == pytest.approx(100 * math.prod(precisions) ** 0.25)


def test_an_unknown_word_is_reported_with_similar_ones(seq2seq):
    lang = Lang("fra")
    lang.addSentence("bonjour")
    with pytest.raises(ValueError, match=r"bonjur \(similar: bonjour\)"):
        seq2seq.encode(lang, "bonjur")
