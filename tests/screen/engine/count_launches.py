"""Screens on pretend-CUDA tensors, case by case: what each asks of the device, as a line of JSON.

`python count_launches.py` runs all cases. It must be a process of its own (`pretend_cuda`), so `test_launches.py` starts it.
"""

# ruff: noqa: E402  (install() must run before rankshift is imported)
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pretend_cuda import RECORD, install, pretending

install()

import numpy as np
import pyarrow as pa
import torch

from rankshift.screen.cells.cells import Cells
from rankshift.screen.embed.cell_embeddings import original_lists
from rankshift.screen.encoder.batches import batches
from rankshift.screen.encoder.encoder import Encoder
from rankshift.screen.engine.shifts import Measure, shifts_of
from rankshift.screen.families.bert import BERT
from rankshift.screen.genes.framing import Frame
from rankshift.screen.perturb.asked import asked

VOCABULARY, POSITIONS = 400, 256


class Drawn:
    """A bundle of random weights in memory, with what an encoder asks of a bundle."""

    family, path = BERT, "drawn"

    def __init__(self, layers: int, dims: int, inner: int, heads: int) -> None:
        self.config = {
            "hidden_act": "relu", "hidden_size": dims, "num_attention_heads": heads, "num_hidden_layers": layers,
            "intermediate_size": inner, "layer_norm_eps": 1e-12, "vocab_size": VOCABULARY,
            "max_position_embeddings": POSITIONS, "model_type": "bert",
        }  # fmt: skip
        self.sizes = BERT.sizes(self.config)

    def encoder_weights(self) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(0)
        d, f = self.sizes.hidden_size, self.sizes.intermediate_size
        shapes = {
            "embeddings.word_embeddings.weight": (VOCABULARY, d),
            "embeddings.position_embeddings.weight": (POSITIONS, d),
            "embeddings.token_type_embeddings.weight": (2, d),
        }
        norms = ["embeddings.LayerNorm"]
        for i in range(self.sizes.layers):
            at = f"encoder.layer.{i}."
            for name in (
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
            ):
                shapes |= {f"{at}{name}.weight": (d, d), f"{at}{name}.bias": (d,)}
            shapes |= {f"{at}intermediate.dense.weight": (f, d), f"{at}intermediate.dense.bias": (f,)}
            shapes |= {f"{at}output.dense.weight": (d, f), f"{at}output.dense.bias": (d,)}
            norms += [f"{at}attention.output.LayerNorm", f"{at}output.LayerNorm"]
        weights = {name: torch.randn(*shape, generator=draw) * 0.3 for name, shape in shapes.items()}
        weights |= {f"{n}.weight": torch.ones(d) for n in norms} | {f"{n}.bias": torch.zeros(d) for n in norms}
        return weights


V1 = Drawn(layers=6, dims=64, inner=128, heads=2)  # as deep as V1-10M and V2-104M, and small; only V1 is a narrow layer
V2 = Drawn(layers=12, dims=96, inner=384, heads=3)
CASES = {  # model, lengths of the cells, kind, genes, measured at <cls>
    "one cell": (V1, [140], "delete", None, False),
    "overexpress": (V1, [140], "overexpress", None, False),
    "gene list, one length": (V1, [60] * 12, "delete", (7, 8), False),
    "gene list, twelve lengths": (V1, list(range(40, 88, 4)), "delete", (7, 8), False),
    "cls, one cell": (V2, [140], "delete", None, True),
    "cls list, one length": (V2, [60] * 12, "delete", (7, 8), True),
    "cls list, twelve lengths": (V2, list(range(40, 88, 4)), "delete", (7, 8), True),
}
BUDGETS = 20_000, 7_000  # rows of a batch: one batch a screen, or three where a cell has 140 genes


def cells_of(lengths: list[int], frame: Frame) -> Cells:
    draw = np.random.default_rng(0)
    ids = []
    for n in lengths:
        genes = np.concatenate([[7, 8], 10 + draw.permutation(VOCABULARY - 10)[: n - 2 - 2 * frame.head]])
        ids.append(np.concatenate([[2], draw.permutation(genes), [3]]) if frame.head else draw.permutation(genes))
    return Cells(
        ids=np.concatenate(ids).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        obs=pa.table({"cell_id": [str(i) for i in range(len(lengths))]}),
        frame=frame,
    )


def screened(case: str, device: str, dtype: str, tokens: int) -> np.ndarray:
    model, lengths, kind, genes, cls = CASES[case]
    frame = Frame(head=1, tail=1) if cls else Frame(head=0, tail=0)
    cells = cells_of(lengths, frame)
    perturb = asked(kind=kind, how="each", genes=genes, frame=frame, limit=POSITIONS)
    encoder = Encoder(model, device=device, dtype=dtype)  # type: ignore[arg-type]
    RECORD.events.clear()
    measure = Measure(level="cls" if cls else "cell", layers=model.sizes.layers - 1, states=None, tokens=tokens)
    return shifts_of(cells, np.arange(len(cells)), encoder, perturb, measure).similarity


def bytes_of(encoder: Encoder, lists: int, layers: int) -> int:
    """What `layers` layers read and write over some lists of 32 rows."""
    frame = Frame(head=0, tail=0)
    cells = cells_of([32] * lists, frame)
    arrays = original_lists(cells.offsets[:-1], cells.lengths, cells.lengths, frame)
    (batch,) = batches(torch.from_numpy(cells.ids), arrays, 32 * lists)
    RECORD.events.clear()
    encoder.hidden(batch, None, layers, False)
    return RECORD.bytes


def main() -> None:
    for case in CASES:
        exact = screened(case, "cpu", "float32", BUDGETS[0])
        for tokens in BUDGETS:
            with pretending():
                found = screened(case, "cuda:0", "float16", tokens)
            row = {
                "case": case,
                "tokens": tokens,
                "counts": RECORD.counts(),
                "kernels": RECORD.names("launch", "triton"),
                "stalls": RECORD.names("blocking", "wait"),
                "off": float(np.abs(found - exact).max()),
                "spread": float(exact.std()),
            }
            print(json.dumps(row), flush=True)
    for name, model in (("V1", V1), ("V2", V2)):
        with pretending():
            encoder = Encoder(model, device="cuda:0", dtype="float16")  # type: ignore[arg-type]
            few, many = (bytes_of(encoder, n, 4) - bytes_of(encoder, n, 3) for n in (4, 8))
        per_row = (many - few) / (4 * 32)  # weights cancel
        print(json.dumps({"case": f"bytes {name}", "per dim": per_row / model.sizes.hidden_size}), flush=True)
    with pretending():
        layer = Encoder(V1, device="cuda:0", dtype="int8").model.layers[0]  # type: ignore[arg-type, attr-defined]
        strides = [list(weight.weight.stride()) for weight in (layer.qkv, layer.qkv[:, :128], layer.up)]
    print(json.dumps({"case": "8 bits", "strides": strides}), flush=True)


if __name__ == "__main__":
    main()
