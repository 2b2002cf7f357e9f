"""A package that stands in for vLLM where a test must decide what it does; real vLLM is in tests/real_vllm.

It answers each request with the prompt's first token, and does what ``FAKE_VLLM`` says: ``refuse``, ``die
AFTER`` so many answers, or ``sleep`` (start a child that outlives it, and answer no more).
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field

BEHAVIOUR, _, NUMBER = os.environ.get("FAKE_VLLM", "").partition(" ")


@dataclass
class SamplingParams:
    temperature: float
    top_p: float
    max_tokens: int
    stop_token_ids: list
    logprobs: int | None
    detokenize: bool
    output_kind: str


@dataclass
class Logprob:
    logprob: float


@dataclass
class CompletionOutput:
    token_ids: list
    logprobs: list | None
    finish_reason: str


@dataclass
class RequestOutput:
    request_id: str
    outputs: list
    finished: bool = True


@dataclass
class Engine:
    waiting: list = field(default_factory=list)
    answered: int = 0

    def add_request(self, request_id, prompt, sampling, lora_request):
        self.waiting.append((request_id, prompt["prompt_token_ids"], sampling, lora_request))

    def has_unfinished_requests(self):
        return bool(self.waiting)

    def step(self):
        """Answer the last request: completions need not come in order."""
        if BEHAVIOUR == "die" and self.answered == int(NUMBER):
            print("RuntimeError: out of memory")
            os._exit(1)
        if BEHAVIOUR == "sleep":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            print(f"child {child.pid}", flush=True)
            time.sleep(600)
        request_id, prompt, sampling, adapter = self.waiting.pop()
        self.answered += 1
        tokens = [prompt[0], *sampling.stop_token_ids] if adapter is None else [99]
        logprobs = None if sampling.logprobs is None else [{token: Logprob(-0.5)} for token in tokens]
        return [RequestOutput(request_id, [CompletionOutput(tokens, logprobs, "stop")])]


class LLM:
    def __init__(self, **options):
        print(f"options {options}", flush=True)
        if BEHAVIOUR == "refuse":
            raise ValueError("no such dtype")
        self.llm_engine = Engine()
