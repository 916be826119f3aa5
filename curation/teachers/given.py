"""How likely a server's model holds an answer that is there already: the log-probability of each of its tokens.

Of a prompt that it reads, vLLM's server tells the log-probabilities where it is asked to. So prompt and answer are
tokenised by the server, each by itself, and sent as the tokens of one prompt. Pictures cannot be sent beside tokens: then
the answer is a turn of the assistant that is to be gone on with, and it is checked that its tokens came out the same.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from curation.teachers.base import REJECTED, Answer, Request, failed, scored
from schemas.errors import WinnowError

if TYPE_CHECKING:
    from curation.teachers.dispatch import Endpoint
    from curation.teachers.openai_server import Server

Send = Callable[["Endpoint", str, bytes], Awaitable[bytes]]


async def score(server: Server, endpoint: Endpoint, request: Request, send: Send) -> Answer:
    """The Answer to a request with a given answer. Raises WinnowError where the server cannot tell."""
    if endpoint.engine != "vllm":
        who = f"{endpoint.engine} serves there" if endpoint.engine else "it does not say who serves there"
        raise WinnowError(
            f"The teacher {endpoint.url} cannot score answers: that needs log-probabilities of a prompt, which vLLM's server "
            f"gives, and {who}.\nStart one with `winnow serve-teacher {server.model}`, or score with transformers_local or "
            "vllm_offline."
        )
    assert request.given is not None
    shaping = {name: server.config.extra[name] for name in ("chat_template_kwargs",) if name in server.config.extra}
    model = {"model": server.model}

    async def post(url: str, **body: Any) -> Any:
        return json.loads(await send(endpoint, url, json.dumps(model | body).encode()))

    async def tokens(**what: Any) -> list[int]:
        return list((await post(endpoint.url.removesuffix("/v1") + "/tokenize", **what))["tokens"])

    answer = await tokens(prompt=request.given, add_special_tokens=False)
    messages = server.messages(request)
    asked = {"max_tokens": 1, "prompt_logprobs": 0}
    if request.images:
        turn = {"role": "assistant", "content": request.given}
        said = await post(
            f"{endpoint.url}/chat/completions", messages=[*messages, turn], add_generation_prompt=False,
            continue_final_message=True, **asked, **shaping,
        )  # fmt: skip
        of = said["prompt_logprobs"]
    else:
        prompt = await tokens(messages=messages, add_generation_prompt=True, **shaping)
        said = await post(f"{endpoint.url}/completions", prompt=prompt + answer, **asked)
        of = said["choices"][0]["prompt_logprobs"]
    begin = len(of) - len(answer)
    found = [next(iter(each.items())) for each in of[begin:]] if answer else []
    if [int(token) for token, _ in found] != answer:
        return next(failed(request, f"{REJECTED}the chat template of {server.model} changes this answer"))
    return scored(request, [float(each["logprob"]) for _, each in found], begin)
