"""The Lua scripts of the Valkey store: each is one operation, and runs whole before anything else does.

All keys of a message stand in one slot of a Cluster, by the shard in braces (the last byte of the row id, in hex), so that one
script reaches them all:

    mayfly:1:{ab}:s<id>      a hash, the state: receipt hash, created_at, expires_at, views left, tries free and wrong, tried_at,
                             proof, openings, how it ended, and `l<lease>`, the views left behind each lease
    mayfly:1:{ab}:b<id>      the body. It ends by its own TTL when nobody can read it any more, should no purge ever run
    mayfly:1:{ab}:due        row ids by the moment at which the purge has a body to remove
    mayfly:1:{ab}:receipts   row ids of messages that ended, by the moment at which the receipt ends
    mayfly:1:{ab}:leases     row id and lease, by the moment at which the lease ends

No key is without a TTL. States end with their receipts, and indexes eight days and an hour after the last message was put in them.

`allow-oom`: a server that is full refuses new messages and nothing else. What writes only a few bytes, or frees, always runs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from records import MAX_OPENINGS, MAX_TRIES, RECEIPT_LIFETIME, SECOND, TRY_LAPSES

_OPENING_CHARS = 14  # 13 digits of milliseconds, until the year 2286, and a comma
_BODY_SPARE = 30 * SECOND
"""The purge comes first, at the moment itself; a body's TTL is for when nobody purges, and within a minute as well."""
_INDEX_LIFETIME = RECEIPT_LIFETIME + 3600 * SECOND


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the name under which servers remember it."""

    text: str
    sha: str


def _script(body: str, flags: str = "") -> Script:
    text = f"#!lua{' flags=' + flags if flags else ''}\n{_PRELUDE}{body}"
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


# ARGV[1] is the time of a clock that was handed in, or empty: then the server's own decides.
_PRELUDE = """
local now = tonumber(ARGV[1])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
end
"""

_MESSAGE = f"""
local due, receipts, leases, state, body = unpack(KEYS)
local id = ARGV[2]

local function field(name)
    return redis.call('HGET', state, name)
end

local function alive()
    local expires_at = tonumber(field('expires_at') or 0)
    return expires_at > now and not field('ended') and expires_at
end

local function lease_end(lease)
    return tonumber(redis.call('ZSCORE', leases, id .. lease) or 0)
end

local function all_leases()
    local found = {{}}
    for _, name in ipairs(redis.call('HKEYS', state)) do
        if #name > 32 then
            found[#found + 1] = name:sub(2)
        end
    end
    return found
end

local function destroy(how)
    redis.call('DEL', body)
    for _, lease in ipairs(all_leases()) do
        redis.call('HDEL', state, 'l' .. lease)
        redis.call('ZREM', leases, id .. lease)
    end
    redis.call('HDEL', state, 'proof', 'tries', 'wrong', 'tried_at')
    redis.call('HSET', state, 'ended', how)
    redis.call('ZREM', due, id)
    redis.call('ZADD', receipts, field('created_at') + {RECEIPT_LIFETIME}, id)
    redis.call('PEXPIRE', receipts, {_INDEX_LIFETIME})
end

-- With the last view taken, remove the body, or leave it to the purge, and to its TTL, for when the last lease ends.
local function retire()
    local last = 0
    for _, lease in ipairs(all_leases()) do
        last = math.max(last, lease_end(lease))
    end
    if last > now then
        redis.call('ZADD', due, 'XX', last, id)
        redis.call('PEXPIRE', body, last - now + {_BODY_SPARE})
    else
        destroy('spent')
    end
end

local function row()
    return redis.call('HMGET', state, 'receipt', 'created_at', 'expires_at', 'views', 'tries', 'proof', 'openings', 'ended')
end
"""

# ARGV: expires_at, created_at, body, then names and values of the state.
PUT = _script(
    _MESSAGE
    + f"""
if redis.call('EXISTS', state) == 1 then
    return 0
end
local expires_at, created_at = ARGV[3], ARGV[4]
redis.call('HSET', state, 'expires_at', expires_at, 'created_at', created_at, unpack(ARGV, 6))
redis.call('PEXPIRE', state, math.max(1, created_at + {RECEIPT_LIFETIME + _BODY_SPARE} - now))
redis.call('SET', body, ARGV[5], 'PX', math.max(1, expires_at - now + {_BODY_SPARE}))
redis.call('ZADD', due, expires_at, id)
redis.call('PEXPIRE', due, {_INDEX_LIFETIME})
return 1
"""
)

PEEK = _script(
    _MESSAGE
    + """
if alive() and field('views') ~= '0' then
    return row()
end
return false
""",
    "no-writes",
)

# ARGV: the lease, if any.
FETCH = _script(
    _MESSAGE
    + """
if not alive() or (field('views') == '0' and not (ARGV[3] and lease_end(ARGV[3]) > now)) then
    return false
end
local found = row()
found[9] = redis.call('GET', body)
return found[9] and found
""",
    "no-writes",
)

HISTORY = _script(
    _MESSAGE
    + f"""
local created_at = tonumber(field('created_at') or 0)
if created_at > now - {RECEIPT_LIFETIME} then
    return row()
end
return false
""",
    "no-writes",
)

# ARGV: the lease's milliseconds, the lease, if any. Answers with the views left (none without a limit), or nil.
CLAIM = _script(
    _MESSAGE
    + f"""
local expires_at = alive()
if not expires_at then
    return false
end
local lease = ARGV[4]
if lease and lease_end(lease) > now then
    return {{tonumber(field('l' .. lease)), 1}}
end
local views = tonumber(field('views'))
if views and views <= 0 then
    return false
end
local openings = (field('openings') or '') .. now .. ','
redis.call('HSET', state, 'openings', openings:sub(-{_OPENING_CHARS * MAX_OPENINGS}))
if not views then
    return {{}}
end
views = redis.call('HINCRBY', state, 'views', -1)
if lease then
    redis.call('HSET', state, 'l' .. lease, views)
    redis.call('ZADD', leases, math.min(now + ARGV[3], expires_at), id .. lease)
    redis.call('PEXPIRE', leases, {_INDEX_LIFETIME})
end
if views == 0 then
    retire()
end
return {{views}}
""",
    "allow-oom",
)

# ARGV: the lease.
CONFIRM = _script(
    _MESSAGE
    + """
local lease = ARGV[3]
if not alive() or lease_end(lease) <= now then
    return 0
end
redis.call('HDEL', state, 'l' .. lease)
redis.call('ZREM', leases, id .. lease)
if field('views') == '0' then
    retire()
end
return 1
""",
    "allow-oom",
)

# ARGV: the hash of the receipt; without it anything is burned.
BURN = _script(
    _MESSAGE
    + """
if not alive() or (ARGV[3] and ARGV[3] ~= field('receipt')) then
    return 0
end
destroy('burned')
return 1
""",
    "allow-oom",
)

RESERVE_TRY = _script(
    _MESSAGE
    + f"""
local free, wrong = tonumber(field('tries')), tonumber(field('wrong') or 0)
if not alive() or not free then
    return 0
end
if free == 0 then
    if wrong >= {MAX_TRIES} or tonumber(field('tried_at') or 0) > now - {TRY_LAPSES} then
        return 0
    end
    free = {MAX_TRIES} - wrong
end
redis.call('HSET', state, 'tries', free - 1, 'tried_at', now)
return 1
""",
    "allow-oom",
)

RETURN_TRY = _script(
    _MESSAGE
    + f"""
local free, wrong = tonumber(field('tries')), tonumber(field('wrong') or 0)
if free and free + wrong < {MAX_TRIES} and not field('ended') then
    redis.call('HINCRBY', state, 'tries', 1)
end
return 1
""",
    "allow-oom",
)

WRONG_TRY = _script(
    _MESSAGE
    + f"""
if not field('created_at') or field('ended') then
    return 0
end
local wrong = redis.call('HINCRBY', state, 'wrong', 1)
if wrong >= {MAX_TRIES} then
    destroy('locked')
end
return math.max(0, {MAX_TRIES} - wrong)
""",
    "allow-oom",
)

# What the shards have to do with the purge. KEYS are the indexes of one shard.

SHARD_COUNTS = _script(
    """
local due, receipts, leases = unpack(KEYS)
local overdue = 0
for _, index in ipairs({due, receipts}) do
    local oldest = redis.call('ZRANGE', index, 0, 0, 'WITHSCORES')[2]
    overdue = math.max(overdue, oldest and now - oldest or 0)
end
return {
    redis.call('ZCARD', due),
    redis.call('ZCOUNT', due, '-inf', now),
    redis.call('ZCOUNT', receipts, '-inf', now),
    redis.call('ZCOUNT', leases, '-inf', now),
    overdue,
}
""",
    "no-writes",
)

# ARGV: how many at most. Row ids, of messages and then of receipts, and after them leases, each behind its row id.
SHARD_DUE = _script(
    """
local found = {}
for _, index in ipairs(KEYS) do
    for _, member in ipairs(redis.call('ZRANGE', index, '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2])) do
        found[#found + 1] = member
    end
end
return found
""",
    "no-writes",
)

# KEYS: the indexes, then state and body of each; ARGV: row ids, or leases each behind its row id. What is not due any more is left.
PURGE = _script(
    _MESSAGE
    + """
local function is_due(index, member)
    local at = redis.call('ZSCORE', index, member)
    return at and tonumber(at) <= now
end

local bodies, ended = 0, 0
for n = 2, #ARGV do
    state, body, id = KEYS[2 * n], KEYS[2 * n + 1], ARGV[n]
    if #id > 32 then
        if is_due(leases, id) then
            redis.call('HDEL', state, 'l' .. id:sub(33))
            redis.call('ZREM', leases, id)
        end
    elseif is_due(due, id) then
        if field('created_at') then
            destroy(field('views') == '0' and 'spent' or 'expired')
        end
        redis.call('ZREM', due, id)
        bodies = bodies + 1
    elseif is_due(receipts, id) then
        redis.call('DEL', state)
        redis.call('ZREM', receipts, id)
        ended = ended + 1
    end
end
return {bodies, ended}
""",
    "allow-oom",
)

# Keys of messages, and turns to purge. KEYS: the one.

# ARGV: its value, and its TTL in milliseconds.
REMEMBER = _script(
    """
redis.call('SET', KEYS[1], ARGV[2], 'NX')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return redis.call('GET', KEYS[1]) == ARGV[2] and 1 or 0
""",
    "allow-oom",
)

# A turn ends by the time of the scripts, like all else. ARGV: who asks, and for how many milliseconds.
TAKE_TURN = _script(
    """
local holder, till = unpack(redis.call('HMGET', KEYS[1], 'holder', 'till'))
if holder and holder ~= ARGV[2] and tonumber(till) > now then
    return 0
end
redis.call('HSET', KEYS[1], 'holder', ARGV[2], 'till', now + ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
""",
    "allow-oom",
)

LEAVE_TURN = _script(
    """
if redis.call('HGET', KEYS[1], 'holder') == ARGV[2] then
    redis.call('DEL', KEYS[1])
end
return 1
""",
    "allow-oom",
)
