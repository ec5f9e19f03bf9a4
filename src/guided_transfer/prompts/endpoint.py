"""A language model behind an OpenAI-compatible endpoint: asked patiently, and never too often."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from guided_transfer.errors import GuidedTransferError, UsageError

KEY_VARIABLES = ("LLM_API_KEY", "OPENAI_API_KEY")
LONGEST_WAIT_S = 120.0
Answer = TypeVar("Answer")


class EndpointError(GuidedTransferError):
    """The endpoint gives no usable answer; what was written before stays."""


class AnswerError(EndpointError):
    """The endpoint answers, but never as it was asked to."""


@dataclass
class Endpoint:
    """One model of one endpoint.

    Attributes:
        base_url: for example http://localhost:8000/v1.
        model: as the endpoint names it.
        timeout_s: for one answer.
        tries: of one question, with growing pauses between them.
        first_pause_s: the first pause; it doubles.
        requests_per_minute: 0 = as fast as it answers.
        tokens_in, tokens_out: used so far, as the endpoint counts them.
    """

    base_url: str
    model: str
    timeout_s: float = 120.0
    tries: int = 6
    first_pause_s: float = 1.0
    requests_per_minute: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    _last_start_s: float = field(default=float("-inf"), repr=False)

    def ask(
        self,
        question: str | Sequence[Mapping[str, Any]],
        read: Callable[[str], Answer],
        *,
        temperature: float = 1.0,
        **options: int,
    ) -> Answer:
        """Ask until `read` takes the answer.

        Args:
            question: the whole message, a text or a list of its parts.
            read: makes something of the answer's text; raises ValueError where it is not usable.
            temperature: of the model's choice of words.
            options: further ones of the request (max_tokens, seed).

        Raises:
            UsageError: asking again cannot help: the key, the model or the address is wrong.
            EndpointError: no usable answer in all tries.
        """
        import openai

        hopeless = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
        fault: Exception = ValueError("not asked")
        for attempt in range(self.tries):
            if attempt:
                time.sleep(min(max(self.first_pause_s * 2 ** (attempt - 1), _retry_after_s(fault)), LONGEST_WAIT_S))
            try:
                return read(self._answer(question, {"temperature": temperature, **options}))
            except hopeless as error:
                raise UsageError(
                    f"{self.base_url} refuses model {self.model!r}: {without_key(error)}; check --llm_base_url, "
                    f"--llm_model and the key in {KEY_VARIABLES[0]}"
                ) from None
            except openai.BadRequestError as error:
                raise UsageError(f"{self.base_url} does not take the request: {without_key(error)}") from None
            except (openai.OpenAIError, ValueError, OSError) as error:
                fault = error
        kind = AnswerError if isinstance(fault, ValueError) else EndpointError
        raise kind(f"{self.base_url}: no usable answer in {self.tries} tries; the last: {without_key(fault)}")

    def _answer(self, question: str | Sequence[Mapping[str, Any]], options: Mapping[str, float]) -> str:
        self._wait_for_turn()
        with _client(self.base_url, self.timeout_s) as client:
            completion = client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": question}], **options
            )
        try:
            usage = completion.usage
            self.tokens_in += usage.prompt_tokens if usage else 0
            self.tokens_out += usage.completion_tokens if usage else 0
            text = completion.choices[0].message.content
        except (AttributeError, IndexError, TypeError):
            raise ValueError(f"no chat completion: {str(completion)[:80]}") from None
        if not isinstance(text, str) or not text.strip():
            raise ValueError("an empty answer")
        return text

    def _wait_for_turn(self) -> None:
        if self.requests_per_minute:
            time.sleep(max(0.0, self._last_start_s + 60 / self.requests_per_minute - time.monotonic()))
        self._last_start_s = time.monotonic()


def served_models(base_url: str, timeout_s: float = 5.0) -> Sequence[str]:
    """Names of the models that an endpoint offers.

    Raises:
        EndpointError: it does not answer, or is none.
    """
    import openai

    try:
        with _client(base_url, timeout_s) as client:
            return [model.id for model in client.models.list().data]
    except (openai.OpenAIError, ValueError, AttributeError, TypeError) as error:
        raise EndpointError(f"{base_url}: no OpenAI-compatible endpoint: {without_key(error)}") from None


def without_key(error: Exception) -> str:
    """An error's text, short, without the key; endpoints like to repeat it."""
    text = str(error) or type(error).__name__
    for name in KEY_VARIABLES:
        if key := os.environ.get(name):
            text = text.replace(key, "***")
    return text[:200]


def _client(base_url: str, timeout_s: float) -> Any:
    try:
        import openai
    except ImportError:
        raise UsageError("a language model needs the package openai: pip install 'guided-transfer[llm]'") from None
    key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), "none")
    return openai.OpenAI(base_url=base_url, api_key=key, timeout=timeout_s, max_retries=0)


def _retry_after_s(error: Exception) -> float:
    """What the endpoint asks us to wait after an error."""
    response = getattr(error, "response", None)
    try:
        return float(response.headers.get("retry-after", 0)) if response is not None else 0.0
    except ValueError:  # the header may also be a date
        return 0.0
