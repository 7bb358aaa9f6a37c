"""The event log's vocabulary: type names, field names and what each outcome teaches.

One line of the log is one JSON object, a CloudEvents 1.0 envelope::

    {"specversion": "1.0", "id": "...", "source": "/<node>/<role>/<incarnation>", "type": "...v1",
     "time": "2026-11-22T16:35:00.123Z", "data": {...}}

``id`` is fixed when the event is made and never changes on replay or shipping. Evolution is additive: readers ignore
fields they do not know. Prompts, completions, keys and comments never appear here. Dotted names are
OpenTelemetry's GenAI attributes; everything else is our own.

``request.v1`` (id = request id) carries in ``data``:

========================= ==========================================================================
route, table_version      where the decision was made; ``route`` null for pass-through requests
requested_model           the client's ``model`` field
endpoint, stream          ``chat|completions|embeddings|responses|messages|other``; bool
side, side_probability    ``control|candidate`` and its probability for this unit; ``rollout`` id or null
guard_lost                true when a candidate draw was sent to control because nobody guards it
stopped                   true when it was because this worker stopped the candidate (a hard stop)
unserved                  true when it was because no arm of the candidate could serve this request
arm, baseline_arm         arm ids (of the *first*, decided attempt); null when nothing was decided
model, variant            configuration names; ``model_key``/``variant_key`` the statistics identity
selector                  selector id; ``policy`` its name
cached                    true when the answer was kept from an earlier request, ``cached_from`` (its id), else absent
propensity                P(arm | side, eligible set); absent when ``cached``
probabilities             full vector over ``arms`` of the side when <= 32 arms, else absent and
                          ``vector`` = id of a ``selector.v1`` event
arms                      ids the vector refers to (only when <= 32)
context                   on contextual routes: {version, x}; ``x`` is the vector that the decision saw, base64 of
                          float32, little endian, and ``version`` that of the features that made it
draw                      the uniform number in [0, 1) that chose, when the arm was drawn by ``context``: the shares of
                          ``probabilities``, in the order of ``arms``, lie end to end there; absent otherwise
sketch                    on routes where words count: base64 of uint16, little endian: which of 4,096 buckets the
                          distinct words of the last user message fall into, at most 256 of them
sampling_rate             on routes with a judge: the share of requests drawn for it, 0..1; ``sampled`` true when
                          this one was
filtered                  {arm id: reason} of arms not eligible
reason                    ``bandit|pinned|single|plain|home|embeddings|passthrough|fallback``, or
                          ``undecided`` when it was refused before a decision, ``cached`` when nobody was asked
randomised                true when the arm was drawn with the logged propensity
unit                      ``request|header|user``; ``unit_hash`` keyed hash or absent
outcome                   one of ``OUTCOMES``; ``status`` HTTP status sent to the caller
error.type                a stable word when outcome is not completed, else absent
attempts                  [{arm, upstream, status, error, ms, randomised}]; ``arm`` null for pass-through;
                          more of each when there were several, see below
served_by                 arm id of the last attempt when it is not the decided one, else absent
continued                 true when a cut stream was continued on another attempt, else absent
gen_ai.operation.name, gen_ai.provider.name, gen_ai.request.model, gen_ai.response.model,
gen_ai.response.id, gen_ai.response.finish_reasons
gen_ai.usage.input_tokens (all input incl. cached), gen_ai.usage.output_tokens (incl. reasoning),
gen_ai.usage.cache_read.input_tokens, gen_ai.usage.cache_creation.input_tokens,
cache_write_1h_tokens, reasoning_tokens, usage_source (``reported|estimated|none``)
cost_usd                  float, or null when unknown; of all attempts together as far as it is known;
                          ``price_version`` of the decided arm's price
started_ms                unix epoch milliseconds (int) when the body was complete
duration_ms, ttft_ms, upstream_ms, overhead_ms, itl_ms (mean gap between chunks), chunks
request_bytes, response_bytes
skipped_events            events of a stream that were no JSON and were left out, when there were any
signals                   {"empty": 0|1, "refusal": 0|1, "json_valid": 0|1} where they apply
upstream_request_id       the provider's own id
trace_id, trace_flags     of the W3C trace that the request belongs to, if it does; ``parent_span_id`` the caller's
                          span, if there is one, and with tracing on ``span_id`` the request's own; rows of
                          ``attempts`` have ``span_id`` and ``at_ms`` (when it began, after ``started_ms``) then
========================= ==========================================================================

With **several attempts** each row of ``attempts`` has besides: ``why`` (one of ``WHYS``), model, model_key,
variant_key, cost_usd, price_version, input_tokens, output_tokens, usage_source. The last row is the attempt that served
the caller, or the last one to fail. ``arm``, ``model``, ``propensity`` and what else describes the decision are of the
first; ``gen_ai.usage.*``, ``usage_source`` and ``gen_ai.response.*`` are of the last. ``duration_ms`` and ``ttft_ms``
are what the caller waited, so the serving arm's own time is the last row's ``ms``.

What they teach: an attempt that failed teaches success 0 to its own arm, unless its status is 4xx other than 408 or its
error is ``client_gone``, ``overloaded`` or ``hedged``. The last one, if the request completed, teaches success,
validity, cost and latency from its own numbers. With ``continued`` it teaches success only, and feedback on that
request teaches nothing. With ``cached`` ``arm`` is who once gave the answer; there are no ``attempts`` and no usage,
``cost_usd`` is 0, and neither the request nor feedback on it teaches anything. See ``optimizer.reward``.

``feedback.v1`` (id = hash of request, metric and source): request_id, metric, value (float), source, comment_bytes.

``feedback.joined.v1`` (only in a cluster; id = the feedback's id + ``:joined``): what the deciding node makes of a
rating, for the owner of the route: request_id, route, signal (as statistics name it, ``quality@<judge>`` from a judge),
value, decision (``data`` of the ``request.v1`` event). The same one may come again.

``selector.v1`` (id = vector id; the same one may be logged again): route, side, selector, policy, arms, probabilities.

``worker.stats.v1``: see ``proxy.worker_stats``. ``table.published.v1``: version, config_hash, checksum.
``config.reloaded.v1``: result, config_hash, problems (count).

``optimization.transition.v1`` (id = ``<optimization>:<revision>``): optimization, route, rollout, attempt, revision,
verb, ``from``, ``to``, actor, reason, explanation, stage, percentage, measured (the guards' last verdicts), record (the
whole new record). ``admin.audit.v1``: actor, action, target, detail.

``judgement.v1`` (id = hash of request, judge, version and kind): request_id, route, arm, model_key, variant_key (of the
answer), kind (``score``, or ``pair``: two prompts compared in both orders), judge, version, model, cost_usd, result
(``scored|failed|refused|over_budget|expired``), rate (the request was drawn with), and where they apply value (the
score; of a pair 1 if the answer beat the other's, 0.5 a tie), word (why there is no value), proxy (what heuristics say
of the answer, 0 or 1), consistent (the same verdict in both orders), other_arm, other_variant_key. A score is also
``feedback.v1`` from the source ``judge:<name>@<version>``; neither holds a word of what was judged.

``drift.v1`` (id = hash of route, arm keys, signal and at): route, arm, model_key, variant_key, signal, before, after
(shares, or geometric means in USD or seconds), evidence, observations, keep (what older evidence counts from now on),
at and since (event times of the request that told and of the first suspicious one).
"""

from typing import Final

REQUEST: Final = "llm_optimizer.request.v1"
FEEDBACK: Final = "llm_optimizer.feedback.v1"
FEEDBACK_JOINED: Final = "llm_optimizer.feedback.joined.v1"
SELECTOR: Final = "llm_optimizer.selector.v1"
WORKER_STATS: Final = "llm_optimizer.worker.stats.v1"
TABLE_PUBLISHED: Final = "llm_optimizer.table.published.v1"
CONFIG_RELOADED: Final = "llm_optimizer.config.reloaded.v1"
TRANSITION: Final = "llm_optimizer.optimization.transition.v1"
AUDIT: Final = "llm_optimizer.admin.audit.v1"
DRIFT: Final = "llm_optimizer.drift.v1"
JUDGEMENT: Final = "llm_optimizer.judgement.v1"

COMPLETED: Final = "completed"
UPSTREAM_FAULT: Final = "upstream_fault"
CALLER_FAULT: Final = "caller_fault"
CENSORED: Final = "censored"
OUTCOMES: Final = (COMPLETED, UPSTREAM_FAULT, CALLER_FAULT, CENSORED)

FIRST: Final = "first"
RETRY: Final = "retry"
FALLBACK: Final = "fallback"
LARGER_CONTEXT: Final = "larger_context"
HEDGE: Final = "hedge"
CONTINUATION: Final = "continuation"
WHYS: Final = (FIRST, RETRY, FALLBACK, LARGER_CONTEXT, HEDGE, CONTINUATION)

# Events larger than this many arms refer to a ``selector.v1`` event instead of carrying the vector.
INLINE_VECTOR_ARMS: Final = 32

# Error words that say that nobody upstream is to blame. An upstream's own word is never one of these.
OUR_WORDS: Final = frozenset(("client_gone", "overloaded", "hedged"))
