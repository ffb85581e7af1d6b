"""The endpoints: completions, chat, token ids, scores, models, health, metrics.

A request is read and checked, made token ids, queued, and answered whole or in pieces. A client that goes away ends
what it asked for. Faults of ours are a status 500 in JSON; what happened goes to `report`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pipelines.serve import asked as asked_for
from pipelines.serve import streams
from pipelines.serve.answer_queue import AnswerQueue
from pipelines.serve.answers import Policy
from pipelines.serve.asked import Completion, Scoring
from pipelines.serve.fields import RequestError
from pipelines.serve.guards import Guards, as_json, body_of, refusal
from pipelines.serve.metrics import TYPE
from pipelines.serve.models import Served
from pipelines.serve.reloading import Reload
from pipelines.serve.replies import Replies, reward_message, scored
from schemas.errors import QuiverError, printable

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

_GONE = 499
"""Status, in counts alone, of a request whose client went away."""

Endpoint: TypeAlias = "Callable[[Request], Awaitable[Response]]"


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may ask and how much: `names` and `any_address` as `Guards` has them, `token` (empty: none), most bytes of a
    body; `root` is the workspace whose checkpoints may be asked for (empty: none).
    """

    names: Collection[str] = ("127.0.0.1", "localhost", "::1")
    any_address: bool = False
    token: str = ""
    body_bytes: int = 4 << 20
    root: str = ""


class App:
    """The endpoints of a policy, a reward model, or both."""

    def __init__(
        self, answer_queue: AnswerQueue, policy: Served | None, reward: Served | None, access: Access,
        report: Callable[[BaseException], object],
    ) -> None:  # fmt: skip
        self.answer_queue, self.reward, self.access, self.report = answer_queue, reward, access, report
        self.policy = Policy(answer_queue, policy) if policy else None
        self.started = int(time.time())
        self._reloading = asyncio.Lock()

    def asgi(self) -> Starlette:
        """The application, behind its guards."""
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.middleware import Middleware
        from starlette.routing import Route

        posts = {
            "/v1/completions": self._completions,
            "/v1/chat/completions": self._chat,
            "/inference/v1/generate": self._generate,
            "/v1/reload": self._reload,
            **dict.fromkeys(("/score", "/v1/score", "/classify", "/pooling"), self._scored),
        }
        gets = {"/v1/models": self._models, "/health": self._health, "/metrics": self._metrics}
        routes = [Route(path, self._safe(each), methods=["POST"]) for path, each in posts.items()]
        routes += [Route(path, self._safe(each), methods=["GET"]) for path, each in gets.items()]
        access = self.access
        guards = Middleware(Guards, names=access.names, any_address=access.any_address, token=access.token)
        return Starlette(routes=routes, middleware=[guards], exception_handlers={HTTPException: _no_endpoint})

    def _safe(self, endpoint: Endpoint) -> Endpoint:
        """`endpoint` with every fault as JSON, counted."""
        from starlette.requests import ClientDisconnect
        from starlette.responses import Response

        async def answered(request: Request) -> Response:
            status = 500
            try:
                response = await endpoint(request)
                status = response.status_code
            except RequestError as fault:
                response = refusal(fault)
                status = fault.status
            except ClientDisconnect:
                response, status = Response(status_code=204), _GONE
            except Exception as fault:
                self.report(fault)
                wrong = RequestError("this server has a fault; its log says which", status=500, kind="server_error")
                response = refusal(wrong)
            finally:
                self.answer_queue.metrics.requests[request.url.path, status] += 1
            return response

        return answered

    async def _completions(self, request: Request) -> Response:
        return await self._completed(request, asked_for.completion)

    async def _chat(self, request: Request) -> Response:
        body = await body_of(request, self.access.body_bytes)
        if self.reward is not None and self._names_reward(body):
            kept = {name: body[name] for name in ("model", "messages") if name in body}
            return await _unless_gone(request, self._numbers(kept, "chat"))
        return await self._completed(request, asked_for.chat, body)

    async def _generate(self, request: Request) -> Response:
        return await self._completed(request, asked_for.generate)

    async def _completed(self, request: Request, read: Callable[..., Completion], body: Any = None) -> Response:
        from starlette.responses import StreamingResponse

        body = await body_of(request, self.access.body_bytes) if body is None else body
        policy = self._policy_for(body)
        asked = read(body, policy.generator.network.architecture.vocab_size, self.answer_queue.most)
        if asked.stream:
            prompts = await policy.prompts(asked)
            answers = await policy.answers(asked, prompts)
            self.answer_queue.require_room(len(answers))
            replies = Replies(policy.served, asked, prompts)
            return StreamingResponse(
                streams.events(self.answer_queue, replies, answers), media_type="text/event-stream"
            )
        return await _unless_gone(request, self._whole(policy, asked, raw=read is asked_for.generate))

    async def _whole(self, policy: Policy, asked: Completion, raw: bool) -> Response:
        prompts = await policy.prompts(asked)
        scores = await policy.prompt_scores(asked, prompts)
        answers: Sequence[Any] = []
        if asked.draw.most != 0:
            answers = await policy.answers(asked, prompts)
            await self.answer_queue.drawn(answers)
        replies = Replies(policy.served, asked, prompts)
        return as_json(replies.generated(answers) if raw else replies.whole(answers, scores))

    async def _scored(self, request: Request) -> Response:
        body = await body_of(request, self.access.body_bytes)
        return await _unless_gone(request, self._numbers(body, request.url.path.rpartition("/")[2]))

    async def _numbers(self, body: Any, form: str) -> Response:
        reward = self.reward
        if reward is None:
            raise RequestError("no reward model is served: quiver serve CHECKPOINT --reward CHECKPOINT", status=404)
        name = body.get("model") if isinstance(body, dict) else None
        if name is not None and name != reward.name:
            raise _unknown(name, [reward.name])
        architecture = reward.network.network.architecture
        asked: Scoring = asked_for.scoring(body, architecture.vocab_size, self.answer_queue.most_waiting)
        rows = [np.asarray(row, np.int64) for row in asked.rows]
        for turns in asked.conversations:
            rows.append(await asyncio.to_thread(_conversation, reward, turns))
        for row in rows:
            if not 0 < len(row) <= architecture.max_sequence_length:
                raise RequestError(
                    f"a row has {len(row)} tokens and the model reads 1 to {architecture.max_sequence_length}"
                )
        numbers = await self.answer_queue.ask(reward.name, "scores", rows)
        self.answer_queue.metrics.rows_scored += len(rows)
        if not np.isfinite(numbers).all():
            raise RequestError("the model's numbers are not finite", status=500, kind="server_error", code="not_finite")
        tokens = sum(map(len, rows))
        if form == "chat":
            return as_json(reward_message(reward, numbers[0], tokens))
        return as_json(scored(reward, numbers, form, tokens))

    async def _reload(self, request: Request) -> Response:
        if not self.access.token:
            raise RequestError("a server without a token takes no other weights", status=403, code="no_reload")
        asked = Reload.of(await body_of(request, self.access.body_bytes), self.access.root)
        if self._reloading.locked():
            raise RequestError("other weights are on their way", status=409, code="reloading")
        async with self._reloading:
            before = self._named(asked.model)
            made = await self.answer_queue.changed(lambda: asked.replacing(before), before)
            if before is self.reward:
                self.reward = made
            else:
                self.policy = Policy(self.answer_queue, made)
        digests = {"weights_digest": made.weights_digest, "previous_weights_digest": before.weights_digest}
        return as_json({"id": made.name, "object": "model", **digests})

    def _named(self, name: str | None) -> Served:
        """The model of that name; without one the policy, or the reward model where there is no policy."""
        listed = [served for served in (self.policy and self.policy.served, self.reward) if served]
        chosen = next((one for one in listed if name in (None, one.name)), None)
        if chosen is None:
            raise _unknown(name, [one.name for one in listed])
        return chosen

    async def _models(self, request: Request) -> Response:
        listed = [served for served in (self.policy and self.policy.served, self.reward) if served]
        data = [
            {
                "id": served.name, "object": "model", "created": self.started, "owned_by": "quiver",
                "max_model_len": served.positions, "weights_digest": served.weights_digest,
            }
            for served in listed
        ]  # fmt: skip
        return as_json({"object": "list", "data": data})

    async def _health(self, request: Request) -> Response:
        alive = self.answer_queue.thread.is_alive
        return as_json({"status": "ok" if alive else "the decoder has ended"}, 200 if alive else 503)

    async def _metrics(self, request: Request) -> Response:
        from starlette.responses import Response

        thread = self.answer_queue.thread
        return Response(self.answer_queue.metrics.text(thread.running, thread.waiting), media_type=TYPE)

    def _names_reward(self, body: Any) -> bool:
        name = body.get("model") if isinstance(body, dict) else None
        return self.reward is not None and (name == self.reward.name or (name is None and self.policy is None))

    def _policy_for(self, body: Any) -> Policy:
        name = body.get("model") if isinstance(body, dict) else None
        if self.policy is None:
            raise RequestError("a reward model is served, which answers at /score, /classify and /pooling", status=404)
        if name is not None and name != self.policy.served.name:
            raise _unknown(name, [self.policy.served.name, *([self.reward.name] if self.reward else [])])
        return self.policy


def _conversation(served: Served, turns: Any) -> Any:
    try:
        return served.texts.conversation(turns, answer=False)
    except QuiverError as fault:
        raise RequestError(printable(fault.what, 300), param="messages") from fault


def _unknown(name: object, names: Sequence[str]) -> RequestError:
    words = f"there is no model {printable(name)} here; served: {', '.join(names)}"
    return RequestError(words, status=404, param="model", code="model_not_found")


async def _no_endpoint(request: Request, fault: Any) -> Response:
    words = f"{request.method} {printable(request.url.path)}: {fault.detail}"
    return refusal(RequestError(words, status=fault.status_code, code="no_endpoint", headers=fault.headers))


async def _unless_gone(request: Request, work: Awaitable[Response]) -> Response:
    """What `work` gives; `ClientDisconnect`, and an end to the work, where the client goes away before."""
    from starlette.requests import ClientDisconnect

    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ClientDisconnect
    finally:
        for task in (doing, gone):
            task.cancel()
        await asyncio.gather(doing, gone, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
