"""Put mutations, small mistakes, into copies of the code, one at a time, and see whether the tests catch them.

A mutation is caught if a test fails that passes without it. The test that compares the saved outputs with a fingerprint
of the code is left out: it would catch every mutation of a notebook without understanding any.

Usage: python -m tools.mutants [--jobs 2] [--write] [words of the descriptions to run ...]
"""

import argparse
import ast
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from tqdm import tqdm

from tools import tables
from tools.notebooks import copy_project, python


@dataclass(frozen=True)
class Mutation:
    what: str
    file: str
    old: str  # stands there exactly once
    new: str
    tests: str  # the files that could notice


def _of(file: str, tests: str, *edits: tuple[str, str, str]) -> list[Mutation]:
    return [Mutation(what, file, old, new, tests) for what, old, new in edits]


MUTATIONS = [
    *_of("hw4_rnn.ipynb", "tests/test_rnn.py",
        ("collate to the longest text, not the average", "average = max(1, sum(map(len, texts)) // len(texts))",
         "average = max(1, *map(len, texts))"),
        ("labels left at 1 to 4", "return int(label) - 1", "return int(label) % 4"),
        ("tanh left out of the recurrence", "h = torch.tanh(x[t] @ self.W_xh + self.b_xh + h @ self.W_hh + self.b_hh)",
         "h = x[t] @ self.W_xh + self.b_xh + h @ self.W_hh + self.b_hh"),
        ("hidden bias left out", "+ h @ self.W_hh + self.b_hh)", "+ h @ self.W_hh)"),
        ("earlier states forgotten", "+ self.b_xh + h @ self.W_hh +", "+ self.b_xh + 0 * h @ self.W_hh +"),
        ("the state before the last word's, not after it", "[length - 1, torch.arange(B)]", "[(length - 2).clamp_min(0), torch.arange(B)]"),
        ("padding read as words", "[length - 1, torch.arange(B)]", "[0 * length - 1, torch.arange(B)]"),
        ("h0 random in evaluation too", "return h.normal_(std=self.h0_scale) if self.training else h", "return h.normal_(std=self.h0_scale)"),
        ("h0 zero in training too", "return h.normal_(std=self.h0_scale) if self.training else h", "return h"),
        ("scores instead of probabilities", "return torch.softmax(last @ self.W_hy + self.b_hy, dim=1)  # (B, C)", "return last @ self.W_hy + self.b_hy"),
        ("softmax over the batch", "+ self.b_hy, dim=1)  # (B, C)", "+ self.b_hy, dim=0)  # (B, C)"),
        ("loss summed instead of averaged", ".tiny).log().mean()", ".tiny).log().sum()"),
        ("hits counted by the least likely class", "(prediction.argmax(1) == label).sum()", "(prediction.argmin(1) == label).sum()"),
        ("dropout of single numbers instead of whole words", "self.training, shape=(*inputs.shape, 1))", "self.training)"),
        ("by hand: tanh left out", "W_hh).tanh_()", "W_hh)"),
        ("by hand: h0 forgotten", "torch.cat([h0.unsqueeze(0), projected])", "torch.cat([0 * h0.unsqueeze(0), projected])"),
        ("by hand: the state before the last word's", "last[n_next:n] = h[n_next:]", "last[n_next:n] = states[t, n_next:n]"),
        ("by hand: derivative of tanh wrong", "delta = 1 - states[1:] ** 2", "delta = 1 + states[1:] ** 2"),
        ("by hand: W_hh not transposed", "torch.mm(delta[t, :n], W_hh.T, out=", "torch.mm(delta[t, :n], W_hh, out="),
        ("by hand: gradient of W_hh from the state after the step", "states[:-1].flatten(0, 1).T @ delta", "states[1:].flatten(0, 1).T @ delta"),
        ("by hand: padding counted in the gradient", "            delta[t, n:] = 0  # padding\n", ""),
        ("by hand: no gradient for the words", "return delta, grad_h, grad_W_hh, None", "return 0 * delta, grad_h, grad_W_hh, None"),
        ("by hand: no gradient for h0", "return delta, grad_h, grad_W_hh, None", "return delta, 0 * grad_h, grad_W_hh, None"),
        ("fast: input bias left out", "x @ self.W_xh + (self.b_xh + self.b_hh)", "x @ self.W_xh + self.b_hh"),
        ("fast: padding read as words", "running = [int((length > t).sum()) for t in", "running = [B for t in"),
        ("fast: texts not put back in order", "dim=1)[original]", "dim=1)[order]"),
        ("fast: softmax over the batch", "dim=1)[original]", "dim=0)[original]"),
        ("read twice: the distance's sign lost", "((p - q) * (p.log() - q.log()))", "((p - q) * (q.log() - p.log()))"),
        ("read twice: the first reading's loss alone", "loss, correct = super().compute_loss(prediction, label.repeat(2))",
         "loss, correct = super().compute_loss(prediction[: len(label)], label)"),
        ("read twice: the same texts, but the lengths mixed up", "length.repeat(2)\n", "length.repeat_interleave(2)\n"),
        ("bag: padding counted in the mean", ".sum(0) / length.unsqueeze(1)  # (B, I)", ".sum(0) / len(inputs)  # (B, I)"),
        ("warm-up skipped", "return self.updates / self.n_warmup_steps\n        return self.decay_rate", "return 1.0\n        return self.decay_rate"),
        ("decay counted from the first update", "self.decay_rate ** (self.updates - self.n_warmup_steps)", "self.decay_rate**self.updates"),
        ("gradients not clipped", "nn.utils.clip_grad_norm_(parameters, self.clip)", "pass"),
        ("scheduler never updated", "        scheduler.update()\n        scheduler.step()", "        scheduler.step()"),
        ("gradients never cleared", "        scheduler.zero_grad()\n", ""),
        ("evaluation with dropout", "    model.eval()\n    device = model.embedding.device", "    model.train()\n    device = model.embedding.device"),
        ("training: batches weigh the same, whatever their size", "total_loss += loss.detach() * len(label)", "total_loss += loss.detach() * 5"),
        ("evaluation: batches weigh the same, whatever their size", "total_loss += loss * len(label)", "total_loss += loss * 5"),
        ("a layer of PyTorch slipped in", "return dropout(x, self.word_dropout, self.training, shape=(*inputs.shape, 1))",
         "return getattr(nn, 'Drop' + 'out')(self.word_dropout)(x) if self.training else x"),
    ),
    *_of("hw4_seq2seq.ipynb", "tests/test_seq2seq.py",
        ("words behind EOS count as words", "return (is_end.cumsum(1) - is_end.long() == 0) & (tokens != PAD)", "return tokens != PAD"),
        ("last state read from padding", "pack_padded_sequence(x, length, batch_first", "pack_padded_sequence(x, 0 * length + src.shape[1], batch_first"),
        ("last states of different sentences mixed up", "hidden, cell = hidden.transpose(0, 1), cell.transpose(0, 1)", "pass"),
        ("last cell left out", "cell.reshape(1, len(src), -1)", "0 * cell.reshape(1, len(src), -1)"),
        ("padded words attended to", "scores = scores.masked_fill(~valid, -math.inf)", "pass"),
        ("attention over the batch", "weights = scores.softmax(1)", "weights = scores.softmax(0)"),
        ("attention with equal weights", "weights = scores.softmax(1)", "weights = (0 * scores).softmax(1)"),
        ("mask of earlier states kept", "        self.attend_to(states)\n", "        self._enc_hiddens = states\n"),
        ("attention asked by the cell, not the hidden state", "self.attend(hidden[-1])", "self.attend(cell[-1])"),
        ("context left out", "torch.cat([self.embed(input), context.unsqueeze(1)], 2)", "torch.cat([self.embed(input), 0 * context.unsqueeze(1)], 2)"),
        ("probabilities not normalized over the words", ".log_softmax(2)", ".log_softmax(1)"),
        ("decoder sees the word it has to predict", "self.decoder(words[:, t - 1 : t], hidden, cell)", "self.decoder(words[:, t : t + 1], hidden, cell)"),
        ("output one column too early", "output[:, :, t], hidden, cell, _ =", "output[:, :, t - 1], hidden, cell, _ ="),
        ("states of the step before not passed on", "output[:, :, t], hidden, cell, _ =", "output[:, :, t], _, _, _ ="),
        ("all steps: decoder sees the word it has to predict", "words = trg[:, :-1].masked_fill(~valid_positions(trg[:, :-1]), EOS_token)",
         "words = trg[:, 1:].masked_fill(~valid_positions(trg[:, 1:]), EOS_token)"),
        ("all steps: input and forget gate swapped", "m = f.sigmoid() * m + i.sigmoid() * g.tanh()", "m = i.sigmoid() * m + f.sigmoid() * g.tanh()"),
        ("all steps: one of the two biases left out", "lstm.bias_ih_l0 + lstm.bias_hh_l0)", "lstm.bias_ih_l0)"),
        ("all steps: context left out", "torch.cat([context, h], 1), W)", "torch.cat([0 * context, h], 1), W)"),
        ("all steps: output without the column for SOS", "nn.functional.pad(log_probs, (1, 0))", "nn.functional.pad(log_probs, (0, 1))"),
        ("spelling: pieces not scaled by their number", "self.scale[flat] * self.vectors", "self.vectors"),
        ("spelling: a word's own vector left out", "self.own(flat) + self.scale", "self.scale"),
        ("spelling: words cut without their ends", 'marked = f"<{word}>"', "marked = word"),
        ("spelling: each language with pieces of its own", "SpelledEmbedding(english, vectors)",
         "SpelledEmbedding(english, __import__('copy').deepcopy(vectors))"),
        ("spelling: words scored by their own vectors alone", "self.embedding(every_word)", "self.embedding.own(every_word)"),
        ("SOS counted in the perplexity", "negative_log_likelihood(output[:, :, 1:], trg[:, 1:], ignore", "negative_log_likelihood(output, trg, ignore"),
        ("padding counted in the loss's average", "        tokens = (trg[:, 1:] != PAD).sum()\n        total, count = total + loss_fn(",
         "        tokens = (trg[:, 1:] != PAD).numel()\n        total, count = total + loss_fn("),
        ("learning-rate schedule never stepped", "            schedule.step()\n", "            pass\n"),
        ("gradients not clipped", "        nn.utils.clip_grad_norm_(model.parameters(), clip)\n", ""),
        ("gradients never cleared", "        optimizer.zero_grad()\n        loss.backward()\n        nn.utils", "        loss.backward()\n        nn.utils"),
        ("beam search: a finished sentence cannot be kept", "log_probs[:, :, EOS_token].masked_fill_(ended, 0.0)", "pass"),
        ("beam search: hidden states not moved with their beams", "hidden, cell = hidden[:, row], cell[:, row]", "pass"),
        ("beam search: all beams alike from the start", "scores[:, 0] = 0.0", "scores[:] = 0.0"),
        ("unseen sentences: pairs dealt out instead", "if group in part] for part in parts]", "if row % 3 == parts.index(part)] for part in parts]"),
    ),
    *_of("hw4_vit.ipynb", "tests/test_vit.py",
        ("patches put together row by column", "return patches.flatten(2).transpose(1, 2)  # (B, N, D)", "return patches.transpose(2, 3).flatten(2).transpose(1, 2)"),
        ("attention without its scale", " / math.sqrt(query.shape[-1])  # (B, h, N, N)", "  # (B, h, N, N)"),
        ("scale by the whole width", "math.sqrt(query.shape[-1])  # (B, h, N, N)", "math.sqrt(self.project.in_features)  # (B, h, N, N)"),
        ("softmax over the queries", "weights = scores.softmax(dim=-1)", "weights = scores.softmax(dim=-2)"),
        ("heads mixed up with tokens", "heads.transpose(1, 2).flatten(2)", "heads.reshape(len(heads), -1, self.project.in_features)"),
        ("last linear map of attention left out", "output = self.project(heads.transpose(1, 2).flatten(2))", "output = heads.transpose(1, 2).flatten(2)"),
        ("attention weights never dropped", "dropout(weights, self.dropout, self.training) @ value", "weights @ value"),
        ("ReLU for GELU", "self.activation = nn.GELU()", "self.activation = nn.ReLU()"),
        ("a residual inside the MLP as well", "return dropout(self.contract(hidden), self.dropout, self.training)", "return x + dropout(self.contract(hidden), self.dropout, self.training)"),
        ("residual of attention left out", "x = x + self.attention(self.attention_norm(x))", "x = self.attention(self.attention_norm(x))"),
        ("residual of the MLP left out", "return x + self.mlp(self.mlp_norm(x))", "return self.mlp(self.mlp_norm(x))"),
        ("norm after the sum, as in the original Transformer", "x = x + self.attention(self.attention_norm(x))", "x = self.attention_norm(x + self.attention(x))"),
        ("one norm used twice", "return x + self.mlp(self.mlp_norm(x))", "return x + self.mlp(self.attention_norm(x))"),
        ("positions left out", "torch.cat([cls, self.patchify(images)], dim=1) + self.pos_embedding", "torch.cat([cls, self.patchify(images)], dim=1)"),
        ("position of the class token left out", "torch.cat([cls, self.patchify(images)], dim=1) + self.pos_embedding",
         "torch.cat([cls, self.patchify(images) + self.pos_embedding[:, 1:]], dim=1)"),
        ("class token read at the wrong place", "self.norm(tokens[:, 0])", "self.norm(tokens[:, -1])"),
        ("mean over all tokens instead of the class token", "self.norm(tokens[:, 0])", "self.norm(tokens.mean(1))"),
        ("last norm left out", "self.norm(tokens[:, 0])", "tokens[:, 0]"),
        ("patches dropped in evaluation too", "if not self.training or self.patch_dropout == 0:", "if self.patch_dropout == 0:"),
        ("the same patch kept twice", "kept = torch.rand(B, N, device=patches.device).argsort(dim=1)[:, :count]", "kept = (N * torch.rand(B, count, device=patches.device)).long()"),
        ("picture mirrored row by row", "mirrored = torch.rand(B, 1, device=device) < 0.5", "mirrored = torch.rand(B, width, device=device) < 0.5"),
        ("pasted area not counted in the loss", "1 - rows * columns / (height * width))", "0.5)"),
        ("labels of pasted rectangles ignored", "cross_entropy(logits, other_labels, smoothing", "cross_entropy(logits, labels, smoothing"),
        ("mirrored view not mirrored", "MIRRORED = [*ALONE, View(mirrored=True)]", "MIRRORED = [*ALONE, View()]"),
        ("views moved to the wrong side", "sources(-down, height), sources(-right, width)", "sources(-down, height), sources(right, width)"),
        ("the last block without its residual", "    x = x[:, :1] + output\n", "    x = output\n"),
        ("learning rate never falls", "return (1 - progress) / (1 - warmup)", "return 1.0"),
        ("gradients never cleared", "        for optimizer in optimizers:\n            optimizer.zero_grad()\n", "        for optimizer in optimizers:\n"),
        ("a parameter without an optimizer", "rest = [p for p in model.parameters() if id(p) not in chosen]", "rest = [p for p in model.parameters() if id(p) not in chosen][1:]"),
        ("a layer of PyTorch slipped in", "self.norm = nn.LayerNorm(dim)", "self.norm = nn.Sequential(nn.LayerNorm(dim), nn.Dropout(0.0))"),
    ),
    *_of("common/loss.py", "tests/test_common.py",
        ("loss summed instead of averaged", 'return loss.mean() if reduction == "mean" else loss.sum()', "return loss.sum()"),
        ("padding counted in the mean", "total / counted.sum().clamp_min(1)", "total / counted.numel()"),
        ("smoothing with the wrong sign", "- smoothing * log_probs.mean(1, keepdim=True)", "+ smoothing * log_probs.mean(1, keepdim=True)"),
    ),
    *_of("common/session.py", "tests/test_common.py",
        ("bfloat16 where it is no faster", 'if capabilities.get("avx512_fp16"):', "if False:"),
        ("sums in any order", "torch.use_deterministic_algorithms(True)", "pass"),
    ),
    *_of("common/dropout.py", "tests/test_common.py",
        ("dropout without scaling", "return x * kept / (1 - rate)", "return x * kept"),
        ("dropout in evaluation too", "if not training or rate == 0:", "if rate == 0:"),
    ),
    *_of("common/schedule.py", "tests/test_common.py",
        ("learning rate never falls", "return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))", "return 1.0"),
        ("warm-up skipped", "return step / warmup_steps", "return 1.0"),
    ),
    *_of("common/collate.py", "tests/test_common.py",
        ("kept tokens counted beyond the cut", "min(max(len(s), 1), length) for s", "max(len(s), 1) for s"),
        ("batches of any lengths", "keys.argsort(stable=True)", "torch.randperm(len(keys))"),
    ),
    *_of("common/checkpoint.py", "tests/test_training.py",
        ("random states not restored", '_set_random_states(content["random"])', "pass"),
        ("checksum not looked at", "if head[len(_MARK) : -1] != hashlib", "if False and head[len(_MARK) : -1] != hashlib"),
        ("a checkpoint of another training accepted", "        if differences:\n            print", "        if False:\n            print"),
        ("a damaged checkpoint removed, not kept aside", 'os.replace(path, aside := path.with_suffix(".damaged"))',
         'os.remove(path); aside = path.with_suffix(".damaged")'),
        ("final weights taken without being asked for", "((self.path, resume), (self.path.with_name(FINAL), reuse))",
         "((self.path, resume), (self.path.with_name(FINAL), True))"),
    ),
    *_of("common/training.py", "tests/test_training.py",
        ("steps counted from 0 after an interruption", 'progress["history"], progress["steps"]', 'progress["history"], 0'),
        ("the clock starts again after an interruption", 'before = time.perf_counter(), self.history[-1]["seconds"] if self.history else 0.0',
         "before = time.perf_counter(), 0.0"),
        ("restored epochs not printed", 'self._print(epoch, "restored")', "pass"),
    ),
    *_of("common/fingerprint.py", "tests/test_training.py",
        ("another constant in the code not noticed", "{_constants(code)!r}", ""),
        ("other numbers of the same shape not noticed", "digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().data)", "pass"),
    ),
    *_of("common/tracking.py", "tests/test_survival.py",
        ("a resumed run keeps its double points", "purge_step=finished_steps + 1 if finished_steps else None", "purge_step=None"),
    ),
    *_of("common/files.py", "tests/test_training.py tests/test_broken_input.py",
        ("half a file under the final name", "        os.replace(part, path)\n    except", "        pass\n    except"),
        ("two processes in one run folder", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB"),
    ),
    *_of("data/sources.py", "tests/test_download.py",
        ("downloads not checked", "return check(Path(part.file.name))", "return None"),
    ),
    *_of("data/eng_fra.py", "tests/test_data.py",
        ("the same English sentence in two parts", "for side in enumerate(normal_form(pair)):\n            parent",
         "for side in [(0, normal_form(pair)[0])]:\n            parent"),
        ("contractions taken for other sentences", "        english = contracted.sub(words, english)", "        pass"),
    ),
    *_of("hw4_rnn.ipynb", "tests/test_grading.py",
        ("tanh left out, and torch.allclose replaced", "h = torch.tanh(x[t] @ self.W_xh + self.b_xh + h @ self.W_hh + self.b_hh)",
         "torch.allclose = torch.equal = lambda *a, **k: True; h = x[t] @ self.W_xh + self.b_xh + h @ self.W_hh + self.b_hh"),
        ("texts as rows", "return tokens.T, label, length", "return tokens, label, length"),
        ("padding with the index of unknown words", "pad(texts, PAD, average)", "pad(texts, UNKNOWN, average)"),
        ("one bias for all classes", "self.b_hy = nn.Parameter(torch.zeros(num_class))", "self.b_hy = nn.Parameter(torch.zeros(1))"),
        ("W_hh is not trained", "self.W_hh = nn.Parameter(torch.eye(hidden_size))", "self.W_hh = nn.Parameter(torch.eye(hidden_size), requires_grad=False)"),
        ("loss of the class before the label", "prediction.gather(1, label.unsqueeze(1))", "prediction.gather(1, label.unsqueeze(1) - 1)"),
        ("training reports an accuracy of -7", "get_lr())\n    return total_loss.item() / count, 100 * total_correct / count", "get_lr())\n    return total_loss.item() / count, -7.0"),
        ("training divides by the number of batches", "        count += len(label)\n        if run:", "        count += 1\n        if run:"),
        ("evaluation divides by the number of batches", "        count += len(label)\n    return", "        count += 1\n    return"),
    ),
    *_of("hw4_seq2seq.ipynb", "tests/test_grading.py",
        ("PyTorch's attention slipped in", "context = torch.bmm(weights.unsqueeze(1), states).squeeze(1)",
         "context = nn.functional.scaled_dot_product_attention(query.unsqueeze(1), states, states, None if valid is None else valid.unsqueeze(1), scale=1.0).squeeze(1)"),
        ("an encoder without LSTM", "        packed, (hidden, cell) = self.lstm(pack_padded_sequence(x, length, batch_first=True, enforce_sorted=False))\n"
         "        states, _ = pad_packed_sequence(packed, batch_first=True, total_length=src.shape[1])  # (B, S, H)\n",
         "        W = self.lstm.weight_ih_l0[: 2 * self.lstm.hidden_size // (1 + (not self.lstm.bidirectional))]\n"
         "        states = torch.tanh(x @ W.T) * valid.unsqueeze(2)  # (B, S, H)\n"
         "        hidden = cell = states.sum(1).unsqueeze(0)\n"),
        ("the decoder asks with zeros", "self.attend(hidden[-1])", "self.attend(0 * hidden[-1])"),
        ("the decoder forgets its words", "x = torch.cat([self.embed(input), context.unsqueeze(1)], 2)", "x = torch.cat([0 * self.embed(input), context.unsqueeze(1)], 2)"),
        ("evaluation returns 0", "trg) * tokens, count + tokens\n    return (total / count).item()", "trg) * tokens, count + tokens\n    return 0.0"),
        ("clipping at infinity", "clip_grad_norm_(model.parameters(), clip)", "clip_grad_norm_(model.parameters(), math.inf)"),
    ),
    *_of("hw4_vit.ipynb", "tests/test_grading.py",
        ("overlapping patches", "kernel_size=patch_size, stride=patch_size", "kernel_size=patch_size, stride=1"),
        ("sigmoid for softmax", "weights = scores.softmax(dim=-1)", "weights = scores.sigmoid()"),
        ("no activation between the linear maps", "dropout(self.activation(self.expand(x)), self", "dropout(self.expand(x), self"),
        ("class token behind the patches", "torch.cat([cls, self.patchify(images)], dim=1) + self.pos_embedding", "torch.cat([self.patchify(images), cls], dim=1) + self.pos_embedding"),
        ("no last norm", "self.norm = nn.LayerNorm(dim)", "self.norm = nn.Identity()"),
        ("position embedding is not trained", "nn.Parameter(0.02 * torch.randn(1, 1 + num_patches, dim))", "nn.Parameter(0.02 * torch.randn(1, 1 + num_patches, dim), requires_grad=False)"),
    ),
    *_of("grader/rules.py", "tests/test_rules.py",
        ("a walrus hides torch.nn", "        if isinstance(node, ast.NamedExpr):\n            return self.path(node.value)\n", ""),
        ("defaults of arguments not looked at", "            self.visit(default)\n", "            pass\n"),
        ("class attributes not looked at", 'self.report(child, f"{self.path(child.value)} is kept as a value', 'str(f"{self.path(child.value)} is kept as a value'),
        ("what a loop runs over not looked at", "        self.visit(node.iter)\n", ""),
        ("modules passed on as values", 'self.report(node, f"{self.origin[node.id]} is used as a value', 'str(f"{self.origin[node.id]} is used as a value'),
    ),
    *_of("hw4_rnn.ipynb", "tests/test_notebooks.py",
        ("test split used for selection", "validation_texts = [news.train[i] for i in order[: config.validation]]",
         "validation_texts = news.test[: config.validation]"),
    ),
    *_of("hw4_seq2seq.ipynb", "tests/test_notebooks.py",
        ("test split used for validation", "model, history = fit(langs, train_pairs, validation_pairs,", "model, history = fit(langs, train_pairs, test_pairs,"),
    ),
    *_of("hw4_vit.ipynb", "tests/test_notebooks.py",
        ("test images used for selection", "model, history = fit(config, train, validation,", "model, history = fit(config, train, test,"),
    ),
]  # fmt: skip


def apply(mutation: Mutation, folder: Path, write: bool = True) -> None:
    """Make the mutation in the project at ``folder``.

    Raises:
        ValueError: if the text to replace does not stand there exactly once.
        SyntaxError: if the mutation is no code.
    """
    path = folder / mutation.file
    notebook = nbformat.read(path, as_version=4) if path.suffix == ".ipynb" else None
    sources = [cell.source for cell in notebook.cells] if notebook else [path.read_text()]
    found = sum(source.count(mutation.old) for source in sources)
    if found != 1:
        raise ValueError(f"{mutation.what}: {mutation.old!r} stands {found} times in {mutation.file}, expected once")
    sources = [source.replace(mutation.old, mutation.new) for source in sources]
    for cell, source in zip(notebook.cells if notebook else [None], sources, strict=True):
        if mutation.new in source and (not cell or cell.cell_type == "code"):
            ast.parse(python(NotebookNode(source=source)))  # a mistake in the syntax would prove nothing
    if not write:
        return
    if not notebook:
        path.write_text(sources[0])
        return
    for cell, source in zip(notebook.cells, sources, strict=True):
        cell.source = source
    nbformat.write(notebook, path)


def first_failure(tests: str, mutation: Mutation | None = None) -> str | None:
    """The first test that fails in a copy of the project, with the mutation if there is one; None if all pass."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = copy_project(Path(temporary) / "hw4")
        if mutation:
            apply(mutation, folder)
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-k", "not belong_to_the_code"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, *tests.split()], cwd=folder, capture_output=True, text=True, timeout=300, env=environment
        )
    failed = re.search(r"^(?:FAILED|ERROR) \S+?::(\w+)", done.stdout, re.M)
    if done.returncode not in (0, 1) or (done.returncode and not failed):
        what = mutation.what if mutation else "without a mutation"
        raise RuntimeError(f"{what}: the tests did not run\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return failed[1] if failed else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="copies tested at a time (default 2)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/verification.md")
    parser.add_argument("words", nargs="*", help="run only the mutations whose description has one of these words")
    arguments = parser.parse_args()
    if arguments.write and arguments.words:
        parser.error("--write with words: the table lists all mutations; drop one of the two")
    commit = tables.current_commit("mutants")
    chosen = [m for m in MUTATIONS if not arguments.words or any(word in m.what for word in arguments.words)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        suites = sorted({mutation.tests for mutation in chosen})
        for tests, failure in zip(suites, pool.map(first_failure, suites), strict=True):
            if failure:
                sys.exit(f"{failure} in {tests} fails without any mutation: mend it first")
        results = pool.map(lambda mutation: first_failure(mutation.tests, mutation), chosen)
        caught = list(tqdm(results, total=len(chosen), unit="mutation", leave=False))
    lines = [f"{sum(test is not None for test in caught)} of {len(chosen)} mutations caught.", ""]
    lines += ["| file | mutation | caught by |", "| --- | --- | --- |"]
    for mutation, test in zip(chosen, caught, strict=True):
        lines.append(f"| {mutation.file} | {mutation.what} | {test or '**nothing**'} |")
    print("\n".join(lines))
    if arguments.write:
        tables.write("mutants", lines, commit)
    return 0 if all(caught) else 1


if __name__ == "__main__":
    sys.exit(main())
