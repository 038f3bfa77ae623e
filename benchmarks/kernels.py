"""What each kernel costs per perturbed list, beside plain torch and beside merely writing its result.

    python benchmarks/kernels.py [--tokens 600 2048] [--lists 256] [--dims 256] [--heads 4] [--dtype float32] [--threads 2]

A genome-wide deletion screen of one cell, shape V1-10M unless said. All ways of one kernel take turns, so that a ratio
compares times of the same minutes; the least time of the rounds is printed. With `--threads 1` on a CPU it is CPU time,
which other processes on the machine disturb least; else it is wall time.
"""

import argparse
import platform
import time
from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

from rankshift.kernels.cosine_shift import cosine_shift, prepare_base
from rankshift.kernels.first_layer import first_layer, plain_first_layer
from rankshift.kernels.perturbed_lists import NOWHERE, PerturbedLists, trace
from rankshift.kernels.rank_shift import EmbeddingTables, rank_shift


def deletions(tokens: int, lists: int, vocabulary: int) -> PerturbedLists:
    """`lists` neighbouring genes in the middle of a cell's ranks, each deleted alone."""
    gene = (torch.arange(lists) + (tokens - lists) // 2)[:, None]
    return PerturbedLists.pack(
        ids=torch.randperm(vocabulary)[:tokens],
        base=torch.zeros(lists),
        base_length=torch.full((lists,), tokens),
        length=torch.full((lists,), tokens - 1),
        source=gene,
        destination=torch.full_like(gene, NOWHERE),
        token=torch.full_like(gene, -1),
    )


def compare(
    title: str, lists: int, ways: Mapping[str, tuple[int, Callable[[], object]]], device: str, rounds: int
) -> None:
    """Times of all ways per list, in turn. A way may do fewer lists than `lists`; it says how many."""
    least = dict.fromkeys(ways, float("inf"))
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    for turn in range(rounds + 1):
        for name, (_, way) in ways.items():
            begin = clock()
            way()
            if device != "cpu":
                torch.cuda.synchronize()
            if turn:  # the first turn warms up
                least[name] = min(least[name], clock() - begin)
    ours = least["rankshift"] / ways["rankshift"][0]
    print(f"{title}, {lists} lists")
    for name, (count, _) in ways.items():
        each = least[name] / count
        print(f"    {name:44s} {each * 1e6:10.1f} us a list   {each / ours:8.2f} x rankshift")


def attention_by_products(below: torch.Tensor, above: torch.Tensor, deleted: int, heads: int) -> torch.Tensor:
    rows = torch.cat([below[:deleted], above[deleted + 1 :]])
    query, key, value = rows.unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)
    weight = torch.bmm(query, key.transpose(1, 2)).mul_(query.shape[2] ** -0.5).softmax(-1)
    return torch.bmm(weight, value).transpose(0, 1).flatten(1)


def measure(tokens: int, lists: int, dims: int, heads: int, dtype: torch.dtype, device: str, rounds: int) -> None:
    lists = min(lists, tokens)
    packed = deletions(tokens, lists, 25426).to(device)
    draw = lambda *shape: torch.randn(*shape, device=device)  # noqa: E731
    tables = EmbeddingTables(
        word=draw(25426, dims),
        position=draw(max(2048, tokens), dims),
        type_row=draw(dims),
        gamma=draw(dims),
        beta=draw(dims),
    )
    out = torch.empty(packed.rows, dims, dtype=dtype, device=device)
    written = {"write the result, memory at hand": (lists, lambda: out.fill_(1.0))}
    written["write the result, fresh memory"] = (lists, lambda: torch.empty_like(out).fill_(1.0))

    def embed_ids() -> torch.Tensor:
        token = packed.ids[trace(packed)[0]].view(lists, tokens - 1)
        rows = tables.word[token] + tables.position[: tokens - 1] + tables.type_row
        return functional.layer_norm(rows, (dims,), tables.gamma, tables.beta, tables.eps).to(dtype)

    compare(
        f"rank_shift   N={tokens}",
        lists,
        {
            "rankshift": (lists, lambda: rank_shift(packed, tables, out=out)),
            "gather ids, add, LayerNorm": (lists, embed_ids),
        }
        | written,
        device,
        rounds,
    )

    below, above = draw(2, tokens, 3 * dims).to(dtype)
    split = packed.source.flatten().cpu()
    attended = out.view(lists, tokens - 1, dims)
    few = split[:4]
    part = attended[: len(few)]
    compare(
        f"first_layer  N={tokens}",
        lists,
        {
            "rankshift": (lists, lambda: first_layer(below, above, None, split, 0, heads, attended)),
            "every list, torch attention": (
                len(few),
                lambda: plain_first_layer(below, above, None, few.to(device), 0, heads, part),
            ),
            "every list, products and softmax": (
                len(few),
                lambda: [attention_by_products(below, above, d, heads) for d in few.tolist()],
            ),
        }
        | written,
        device,
        rounds,
    )

    before, after = draw(tokens, dims).to(dtype), draw(packed.rows, dims).to(dtype)
    base = prepare_base(before, torch.tensor([0]), torch.tensor([tokens]))

    def aligned_copies() -> tuple[torch.Tensor, torch.Tensor]:
        rows = after.view(lists, tokens - 1, dims).float()
        aligned = before.float()[trace(packed)[0]].view_as(rows)
        mean = functional.cosine_similarity(rows, aligned, dim=2).mean(1)
        return mean, functional.cosine_similarity(rows.mean(1), before.float().mean(0), dim=1)

    compare(
        f"cosine_shift N={tokens}",
        lists,
        {
            "rankshift": (lists, lambda: cosine_shift(base, after, packed)),
            "aligned copies, cosine_similarity": (lists, aligned_copies),
            "read the hidden states": (lists, lambda: after.sum()),
        },
        device,
        rounds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[600, 2048])
    parser.add_argument("--lists", type=int, default=256)
    parser.add_argument("--dims", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    machine = torch.cuda.get_device_name() if options.device != "cpu" else f"{platform.machine()} CPU"
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    print(f"{options.dtype}, {options.dims} dims, {options.heads} heads")
    with torch.inference_mode():
        for tokens in options.tokens:
            measure(
                tokens,
                options.lists,
                options.dims,
                options.heads,
                getattr(torch, options.dtype),
                options.device,
                options.rounds,
            )


if __name__ == "__main__":
    main()
