"""What a run starts from, read and checked before anything is written or any weight is loaded.

`read_inputs` raises for every mistake that can be seen without running the model: files, rows,
columns, ids, checkpoint, tokenizer, template, context length.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gradcurate.config import Settings
from gradcurate.errors import PolicyError, ProblemsError
from gradcurate.policies.checkpoints import OPTIMIZER_FILE, Checkpoint, find_checkpoint
from gradcurate.policies.digests import file_digest
from gradcurate.policies.policy import context_tokens, load_tokenizer
from gradcurate.policies.prompts import render_prompt, resolve_prompt_format
from gradcurate.policies.stop_tokens import end_token_id, find_stop_token_ids
from gradcurate.problems import (
    BadRow,
    ColumnChoice,
    Problem,
    ProblemSet,
    Split,
    check_disjoint,
    problems_to_table,
    read_problems,
)
from gradcurate.rewards.judges.judge import read_judge
from gradcurate.rollouts.ingest.dumps import dump_files
from gradcurate.rollouts.rollout import PromptedProblem
from gradcurate.sketches.references import ReferenceAnswers, reference_answers
from gradcurate.store.tables import Fingerprint


@dataclass(frozen=True)
class Inputs:
    """Problems as the policy will be asked them, and what every later row depends on.

    Attributes:
        problems: Pool and validation.
        prompted: Their prompts as token ids, in the same order.
        bad_rows: What was set aside.
        checkpoint: The policy's files.
        gradient_checkpoint: The files of the model that gradients are taken from; mostly the policy's.
        tokenizer: The policy's tokenizer.
        stop_token_ids: What ends the policy's responses.
        prompt_format: How prompts were rendered.
        fingerprints: Of the stages ``problems``, ``rollouts`` and ``sketches``.
    """

    problems: tuple[Problem, ...]
    prompted: tuple[PromptedProblem, ...]
    bad_rows: tuple[BadRow, ...]
    checkpoint: Checkpoint
    gradient_checkpoint: Checkpoint
    tokenizer: Any
    stop_token_ids: frozenset[int]
    prompt_format: Literal["chat", "text"]
    fingerprints: Mapping[str, Fingerprint]

    def prompted_of(self, split: Split) -> list[PromptedProblem]:
        """Return one split's prompts."""
        return [problem for problem in self.prompted if problem.split == split]

    def reference_answers(self, split: Split, settings: Settings) -> ReferenceAnswers:
        """Return one split's reference answers as token ids.

        Raises:
            ProblemsError: A problem has no column of that name.
        """
        return reference_answers(
            [problem for problem in self.problems if problem.split == split],
            {prompted.problem_id: prompted.prompt_token_ids for prompted in self.prompted_of(split)},
            self.tokenizer,
            end_token_id(self.tokenizer, self.stop_token_ids) if self.prompt_format == "chat" else None,
            settings.gold_column,
            context_tokens(self.checkpoint),
        )


def read_inputs(settings: Settings) -> Inputs:
    """Read problems and tokenizer, and check all that can be checked.

    Raises:
        InputError: Something the user gave cannot be used.
    """
    validation, pool = _read_splits(settings)
    checkpoint = find_checkpoint(settings.model)
    tokenizer = load_tokenizer(checkpoint)
    gradient_checkpoint = find_proxy(settings.gradient_model, checkpoint, tokenizer)
    both = (*validation.problems, *pool.problems)
    prompt_format = resolve_prompt_format(settings.prompt_format, tokenizer, both)
    prompts = {(p.split, p.problem_id): render_prompt(tokenizer, p, prompt_format) for p in both}
    limit = context_tokens(checkpoint)
    fitting = [_drop_too_long(part, prompts, limit, settings) for part in (validation, pool)]
    problems = tuple(problem for part in fitting for problem in part.problems)
    return Inputs(
        problems=problems,
        prompted=tuple(
            PromptedProblem(p.problem_id, p.split, tuple(prompts[p.split, p.problem_id])) for p in problems
        ),
        bad_rows=tuple(row for part in fitting for row in part.bad_rows),
        checkpoint=checkpoint,
        gradient_checkpoint=gradient_checkpoint,
        tokenizer=tokenizer,
        stop_token_ids=find_stop_token_ids(checkpoint, tokenizer),
        prompt_format=prompt_format,
        fingerprints=_fingerprints(
            settings, problems, prompts, checkpoint, gradient_checkpoint, prompt_format
        ),
    )


def find_proxy(name: str | None, policy: Checkpoint, tokenizer: Any) -> Checkpoint:
    """Return the checkpoint that gradients are taken from: the policy's own where no other is named.

    Raises:
        PolicyError: It does not share the policy's tokenizer, so that its tokens mean something else.
    """
    if name is None:
        return policy
    found = find_checkpoint(name, "--gradient-model")
    own, other = tokenizer.get_vocab(), load_tokenizer(found).get_vocab()
    if own != other:
        raise PolicyError(
            "--gradient-model must share the policy's tokenizer",
            f"{len(own.items() ^ other.items())} entries of their vocabularies differ",
            "Use a smaller sibling, an earlier checkpoint, or a pruned version of the policy.",
        )
    return found


def digest(value: Any) -> str:
    """Return a hash of a JSON-serialisable value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _read_splits(settings: Settings) -> tuple[ProblemSet, ProblemSet]:
    columns = ColumnChoice(
        id=settings.id_column,
        prompt=settings.prompt_column,
        answer=settings.answer_column,
        source=settings.source_column,
    )
    read = functools.partial(
        read_problems,
        columns=columns,
        system_prompt=settings.system_prompt,
        on_bad_row=settings.on_bad_row,
    )
    validation, pool = read(settings.validation, "validation"), read(settings.pool, "pool")
    return validation, check_disjoint(pool, validation, settings.on_bad_row)


def _drop_too_long(
    part: ProblemSet, prompts: Mapping[tuple[Split, str], list[int]], limit: int | None, settings: Settings
) -> ProblemSet:
    """Refuse, or with ``--on-bad-row skip`` set aside, prompts that leave no room for a response."""
    kept, dropped = [], []
    for line, problem in zip(part.lines, part.problems, strict=True):
        tokens = len(prompts[problem.split, problem.problem_id])
        if limit is None or tokens + settings.max_tokens <= limit:
            kept.append((line, problem))
            continue
        reason = (
            f"its prompt has {tokens} tokens, and with --max-tokens {settings.max_tokens} that is too long"
        )
        if settings.on_bad_row == "stop":
            raise ProblemsError(
                f"{part.file}:{line}: prompt and response must fit the policy's context of {limit} tokens",
                reason,
                "Lower --max-tokens, shorten the prompt, or use --on-bad-row skip.",
            )
        dropped.append(BadRow(part.file, line, reason, problem.row))
    if not kept:
        raise ProblemsError(
            f"{part.file}: at least one prompt must fit the policy's context of {limit} tokens",
            f"none does with --max-tokens {settings.max_tokens}",
            "Lower --max-tokens.",
        )
    lines, problems = zip(*kept, strict=True)
    return replace(part, problems=problems, lines=lines, bad_rows=(*part.bad_rows, *dropped))


def _fingerprints(
    settings: Settings,
    problems: Iterable[Problem],
    prompts: Mapping[tuple[Split, str], list[int]],
    checkpoint: Checkpoint,
    gradient_checkpoint: Checkpoint,
    prompt_format: str,
) -> dict[str, Fingerprint]:
    ordered = sorted(problems, key=lambda p: (p.split, p.problem_id))
    rows = problems_to_table(ordered).to_pylist()
    of_problems = {"problems": digest(rows)}
    policy = checkpoint.fingerprint()
    same = gradient_checkpoint == checkpoint
    of_rollouts = {
        **of_problems,
        "policy": policy,
        **settings.of_stage("rollouts"),
        "prompt_format": prompt_format,
        "prompts": digest([prompts[p.split, p.problem_id] for p in ordered]),
        **reward_fingerprint(settings),
        "dump_files": _dump_digest(settings),
    }
    of_sketches = {
        "policy": policy,
        "gradient_model": policy if same else gradient_checkpoint.fingerprint(),
        "rollouts": digest(of_rollouts),
        **settings.of_stage("sketches"),
        "optimizer": _optimizer_digest(settings, gradient_checkpoint),
    }
    return {"problems": of_problems, "rollouts": of_rollouts, "sketches": of_sketches}


def _optimizer_digest(settings: Settings, checkpoint: Checkpoint) -> str | None:
    file = checkpoint.own_folder / OPTIMIZER_FILE
    return file_digest(file) if settings.precondition == "adam" and file.is_file() else None


def reward_fingerprint(settings: Settings) -> Fingerprint:
    """Return what rewards depend on, besides what is rewarded."""
    return {
        "reward": settings.reward,
        "reward_weights": settings.reward_weights,
        "reward_style": settings.reward_style,
        "reward_file": _reward_files_digest(settings),
    }


def _reward_files_digest(settings: Settings) -> str | None:
    paths = [Path(name.rpartition(":")[0]).expanduser() for name in settings.reward_names]
    digests = [file_digest(path) for path in paths if path.is_file()]
    judges = [Path(name).expanduser() for name in settings.reward_names if name.endswith(".toml")]
    digests += [read_judge(path).digest for path in judges]
    return "+".join(digests) or None


def _dump_digest(settings: Settings) -> str | None:
    return settings.dump and digest([file_digest(path) for path in dump_files(settings.dump)])
