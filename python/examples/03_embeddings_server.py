"""Sentence embeddings over HTTP: one model for all requests, awaited, so that no request has a thread of its own.

scripts/fetch-models minilm
pip install fastapi uvicorn tokenizers
python python/examples/03_embeddings_server.py
curl -s localhost:8000/embed -H 'content-type: application/json' -d '{"sentences": ["hello", "good morning"]}'
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import numpy as np
import streampool as sp
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from tokenizers import Tokenizer

MODELS = Path(os.environ.get("STREAMPOOL_CACHE", Path(__file__).parents[2] / ".cache")) / "models"
LONGEST = 128

tokenizer = Tokenizer.from_file(str(MODELS / "minilm-tokenizer.json"))
tokenizer.enable_truncation(LONGEST)
# Lengths in steps of 16: few plans serve all requests.
tokenizer.enable_padding(pad_to_multiple_of=16)
model = sp.load(MODELS / "minilm.onnx")
app = FastAPI(title="Sentence embeddings")


class Request(BaseModel):
    """What to embed."""

    sentences: Annotated[list[str], Field(min_length=1, max_length=64)]


class Answer(BaseModel):
    """A vector of length 384 and norm 1 for each sentence."""

    embeddings: list[list[float]]


@app.post("/embed")
async def embed(request: Request) -> Answer:
    """Mean of the token vectors, normalised."""
    encoded = tokenizer.encode_batch(request.sentences)
    ids = np.array([e.ids for e in encoded], np.int64)
    mask = np.array([e.attention_mask for e in encoded], np.int64)
    try:
        tokens = await model.run_async(input_ids=ids, attention_mask=mask, token_type_ids=np.zeros_like(ids))
    except (sp.OutOfMemoryError, sp.PoolExhaustedError) as e:
        # This request alone failed; the others go on.
        raise HTTPException(503, str(e)) from e
    sums = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return Answer(embeddings=(sums / np.linalg.norm(sums, axis=1, keepdims=True)).tolist())


@app.get("/health")
async def health() -> dict[str, int]:
    """The device at a glance."""
    stats = model.device.memory_stats()
    return {"live_bytes": stats["live"], "streams_running": model.device.pool_stats()["running"]}


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, host="127.0.0.1", port=8000)
