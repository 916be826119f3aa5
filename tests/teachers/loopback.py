"""A teacher behind OpenAI's protocol, in a process of its own: what it says is a pure function of (prompt, seed).

    python loopback.py --port 0 --faults 0.2 --log asked.jsonl

It prints its port. Every answer that it is asked for is noted in the log before anything is sent, so a test can say what
was asked for, and how often. Faults are drawn anew for every request: 503 and 429, an answer that never comes, a
connection that is cut in the middle, JSON that breaks off. Only the standard library is used.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import re
import sys


def reply(prompt: str, seed: int, length: int) -> tuple[str, int, str]:
    """Text, tokens and finish reason of one answer. A sum in the prompt is answered, rightly in two cases of three."""
    draw = int.from_bytes(hashlib.sha256(f"{seed}\x1f{prompt}".encode()).digest()[:8], "big")
    numbers = [int(n) for n in re.findall(r"What is (\d+) \+ (\d+)", prompt)[0]] if "What is" in prompt else [0, 0]
    answer = sum(numbers) + (draw % 3 == 0)
    words = 20 + draw % 40 if length == 0 else length
    thought = " ".join(f"w{(draw >> i % 50) % 97}" for i in range(words))
    return f"<think>{thought}</think>The answer is \\boxed{{{answer}}}.", words + 8, "stop"


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Loopback:
    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.log = open(options.log, "a", buffering=1) if options.log else None  # noqa: PTH123, SIM115
        self.chance = random.Random(options.seed)
        self.asked = self.requests = self.most_at_once = self.at_once = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line = head.split("\r\n", 1)[0]
                found = re.search(r"(?i)content-length: (\d+)", head)
                body = await reader.readexactly(int(found[1])) if found else b""
                if line.startswith("GET"):
                    await self.get(line.split()[1], writer)
                elif not await self.post(json.loads(body), writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def get(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path.endswith("/models"):
            said = {"data": [{"id": self.options.model, "owned_by": self.options.engine}]}
        else:
            said = {"asked": self.asked, "requests": self.requests, "most_at_once": self.most_at_once}
        await self.send(writer, 200, said)

    async def send(
        self, writer: asyncio.StreamWriter, status: int, said: object, *, cut: bool = False, torn: bool = False
    ) -> None:
        payload = json.dumps(said).encode()
        shown = payload[: len(payload) // 2] if torn else payload
        head = f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {len(shown)}\r\n\r\n"
        writer.write(head.encode() + (shown[: len(shown) // 2] if cut else shown))
        await writer.drain()

    async def post(self, body: dict, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False where the connection ends with it."""
        options = self.options
        self.requests += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if options.capacity and self.at_once > options.capacity:
                await self.send(writer, 429, {"error": "too many"})
                return True
            fault = (
                self.chance.choice(["503", "429", "hang", "cut", "torn"])
                if self.chance.random() < options.faults
                else ""
            )
            if fault in ("503", "429"):
                await self.send(writer, int(fault), {"error": fault})
                return True
            n = min(body.get("n", 1), options.most_choices)
            seeds = [body["seed"] + i for i in range(n)]
            prompt = "\n".join(
                m["content"] if isinstance(m["content"], str) else json.dumps(m["content"]) for m in body["messages"]
            )
            if "too long" in prompt:
                await self.send(writer, 400, {"error": {"message": "the prompt is too long"}})
                return True
            self.asked += n
            choices = [self.choice(i, prompt, seed, body) for i, seed in enumerate(seeds)]
            if self.log:
                name = _name(prompt)
                said = [_name(c["message"].get("reasoning_content", "") + c["message"]["content"]) for c in choices]
                lines = [f"{name} {s} {body['max_tokens']} {text}\n" for s, text in zip(seeds, said, strict=True)]
                self.log.write("".join(lines))
            if fault == "hang":
                await asyncio.sleep(3600)
            if options.delay:
                await asyncio.sleep(options.delay)
            tokens = sum(len(c["token_ids"]) for c in choices)
            if not body.get("return_token_ids"):
                for choice in choices:
                    del choice["token_ids"]
            said = {"choices": choices, "usage": {"prompt_tokens": len(prompt) // 4, "completion_tokens": tokens}}
            await self.send(writer, 200, said, cut=fault == "cut", torn=fault == "torn")
            return fault != "cut"
        finally:
            self.at_once -= 1

    def choice(self, index: int, prompt: str, seed: int, body: dict) -> dict:
        text, tokens, reason = reply(prompt, seed, self.options.length)
        if tokens > body["max_tokens"]:
            words = text.split(" ")
            text, tokens, reason = " ".join(words[: body["max_tokens"]]), body["max_tokens"], "length"
        message = {"role": "assistant", "content": text}
        if self.options.reasoning and "</think>" in text:
            thought, _, rest = text.removeprefix("<think>").partition("</think>")
            message = {"role": "assistant", "content": rest, "reasoning_content": thought}
        logprobs = {"content": [{"token": "t", "logprob": -0.5}] * tokens} if body.get("logprobs") else None
        return {
            "index": index,
            "message": message,
            "finish_reason": reason,
            "token_ids": [1] * tokens,
            "logprobs": logprobs,
        }


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--engine", default="vllm")
    parser.add_argument("--log", default="")
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--capacity", type=int, default=0, help="requests at once before it says 429")
    parser.add_argument("--most-choices", type=int, default=1 << 20)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--length", type=int, default=0, help="words of an answer; by default 20 to 60")
    parser.add_argument("--reasoning", action="store_true")
    options = parser.parse_args()
    server = await asyncio.start_server(Loopback(options).serve, "127.0.0.1", options.port, backlog=2048, limit=1 << 26)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(0)
