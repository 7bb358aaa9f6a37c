"""What Redis does with the claims of a node: one script, atomic, the same result when it is run twice.

Keys: a hash that says since when this Redis can be trusted; a sorted set of the nodes that live; then one hash for each
claim: node -> "granted used sequence epoch", ``sum`` of what nodes have been granted, ``used`` of what they have spent,
and ``lost``: what was spent by nodes that Redis knows nothing of any more.

Another server process (restarted, failed over to), or an emptied one (the first hash is gone), may know an older
state of anything. A new epoch begins: nothing is granted for a while, until all nodes have said what they have. With
its first word in an epoch a node also says what the others had spent when it last heard, which only ever grows: what
nobody has said yet is ``lost``, and who says it later takes it out of there. So Redis must not evict keys one by one
(``maxmemory-policy noeviction``): that is no new epoch.

Lua counts in doubles, exact up to 2**53, so budgets are counted in micro-dollars: what nodes hold is rounded up, what
they get is rounded down.
"""

from collections.abc import Sequence
from typing import Any, Final

from optimizer.cluster.shares import Answer, NodeClaim, NodeGrant
from optimizer.lease_terms import RATES, end_of
from optimizer.leases import KEPT_WINDOWS

MOST_CLAIMS: Final = 50
"""In one call; Redis does nothing else meanwhile."""

_LARGEST: Final = 1 << 51
_NANO_IN_MICRO: Final = 1000

TEXT: Final = """
local holder, sequence = ARGV[1], tonumber(ARGV[2])
local settle_ms, live_ms = tonumber(ARGV[3]), tonumber(ARGV[4])

local function number(value) return tonumber(value or 0) or 0 end
local function digits(value) return string.format('%.0f', value) end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or ''
local known = redis.call('HMGET', KEYS[1], 'run', 'until', 'epoch')
local until_when, epoch = number(known[2]), known[3]
if known[1] ~= run then
  until_when, epoch = now + settle_ms, string.sub(run, 1, 6) .. digits(now)
  redis.call('HSET', KEYS[1], 'run', run, 'until', digits(until_when), 'epoch', epoch)
end
local is_settling = now < until_when and until_when - now <= settle_ms

redis.call('ZADD', KEYS[2], digits(now), holder)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. digits(now - live_ms))
redis.call('ZREMRANGEBYSCORE', KEYS[2], '(' .. digits(now + live_ms), '+inf')
redis.call('PEXPIRE', KEYS[2], live_ms)
local live = math.max(1, redis.call('ZCARD', KEYS[2]))

local answers = {}
for i = 3, #KEYS do
  local key, at = KEYS[i], 4 + (i - 3) * 7
  local ttl_ms, limit, others = ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local used, hold = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local need, want = tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])

  local row = redis.call('HMGET', key, holder, 'sum', 'used', 'lost')
  local granted, spent, last, said = string.match(row[1] or '', '^(%d+) (%d+) (%d+) (%w+)$')
  granted, spent, last = number(granted), number(spent), number(last)
  local sum, all_used, lost = number(row[2]), number(row[3]), number(row[4])

  if last < sequence then
    sum, all_used = sum - granted, all_used - spent
    if said ~= epoch then
      lost = math.max(0, lost - math.max(0, used - spent), others - all_used)
    end
    local room = is_settling and 0 or math.max(0, limit - sum - lost - hold)
    granted = hold + math.min(room, math.max(need, math.min(want, math.floor(room / (2 * live)))))
    sum, all_used, last = sum + granted, all_used + used, sequence
    redis.call('HSET', key, holder, digits(granted) .. ' ' .. digits(used) .. ' ' .. digits(last) .. ' ' .. epoch,
      'sum', digits(sum), 'used', digits(all_used), 'lost', digits(lost))
    redis.call('PEXPIRE', key, ttl_ms)
  end
  answers[i - 2] = {digits(granted), digits(sum + lost), digits(all_used + lost), digits(last)}
end
return {epoch, is_settling and 1 or 0, answers}
"""


def key_parts(claim: NodeClaim) -> tuple[str, str, int, str]:
    """What the key of a claim's hash is made of; the subject comes last, it may hold anything."""
    subject, measure, start = claim.meter
    return "limit", measure, start, subject


def arguments(
    holder: str, sequence: int, claims: Sequence[NodeClaim], *, settle_s: float, live_s: float
) -> list[str | int]:
    """What the script is called with."""
    found: list[str | int] = [holder, sequence, round(settle_s * 1000), round(live_s * 1000)]
    for claim in claims:
        _, measure, start = claim.meter
        unit = _unit(measure)
        # As long as a book keeps a window, after whoever spoke of it last: clocks differ, and are set.
        found.append((end_of(measure, start) - start) * 1000 * (KEPT_WINDOWS + 1))
        found += [min(_LARGEST, amount // unit) for amount in (claim.limit, claim.others, claim.used)]
        found += [min(_LARGEST, -(-amount // unit)) for amount in (claim.hold, claim.need, claim.want)]
    return found


def read(reply: Any, claims: Sequence[NodeClaim]) -> Answer:
    """What the script answered.

    Raises:
        ValueError: This is no answer of the script to these claims.
    """
    try:
        epoch, is_settling, rows = reply
        grants = []
        for claim, (granted, total, used, last) in zip(claims, rows, strict=True):
            unit = _unit(claim.meter[1])
            grants.append(NodeGrant(int(granted) * unit, int(total) * unit, int(used) * unit, int(last)))
        return Answer(bytes(epoch), is_settling == 1, grants)
    except TypeError as error:
        raise ValueError(f"not an answer: {error!r}") from error


def _unit(measure: str) -> int:
    return 1 if measure in RATES else _NANO_IN_MICRO
