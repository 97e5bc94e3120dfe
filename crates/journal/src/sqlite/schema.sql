-- Format 5. See docs/journal.md.
BEGIN;

CREATE TABLE settlements (
    id             BLOB PRIMARY KEY,          -- the authorization's identity, 32 bytes
    network        TEXT NOT NULL,             -- CAIP-2
    scheme         TEXT NOT NULL,
    payer          TEXT NOT NULL,
    pay_to         TEXT NOT NULL,
    asset          TEXT NOT NULL,
    amount         TEXT NOT NULL,             -- to transfer, in atomic units
    expires        INTEGER NOT NULL,          -- seconds since 1970, as all times
    request        TEXT NOT NULL,             -- the parts that a scheme reads
    decoded_at     INTEGER NOT NULL,
    attempt        INTEGER NOT NULL,          -- from 1
    failures       INTEGER NOT NULL,          -- attempts that ended with a transaction without effect
    state          TEXT NOT NULL CHECK (state IN ('open', 'settled', 'failed', 'released', 'lost')),
    reason         TEXT,                      -- the reason code of a failure or a loss
    detail         TEXT,
    transaction_id TEXT,                      -- the deciding transaction; NULL if nothing was sent
    settled_amount TEXT,
    claimed_at     INTEGER NOT NULL,          -- of the current attempt
    concluded_at   INTEGER,
    success_reported_at INTEGER,              -- when `success: true` was reported
    final_at       INTEGER,                   -- when its block was found final
    fault          TEXT,                      -- the kind of fault of a release
    retry_after    INTEGER,                   -- seconds: when to retry after a release
    number         INTEGER NOT NULL DEFAULT 0, -- from 1, in the order of the first claim
    caller         TEXT,                      -- the name of the caller's key; NULL: any caller
    state_id       BLOB,                      -- the state record that it uses
    state_revision INTEGER,                   -- the revision that it was judged by
    state_exclusive INTEGER NOT NULL DEFAULT 0, -- 1: it has the record for itself while it is open
    refund_of      BLOB REFERENCES settlements (id),
    retries_without_limit INTEGER NOT NULL DEFAULT 0,
    receipt        TEXT,                      -- JSON: the answer's amount and more fields of extra
    reported_to    TEXT,                      -- the key of the caller that success was reported to
    owner          BLOB,                      -- the replica that works on it, 16 bytes; NULL: none
    wanted_lane    TEXT,                      -- the only lane that can send it, if it was handed over
    CHECK (state <> 'settled' OR settled_amount IS NOT NULL),
    CHECK (success_reported_at IS NULL OR state IN ('settled', 'open', 'lost')),
    CHECK (state <> 'lost' OR success_reported_at IS NOT NULL),
    CHECK (final_at IS NULL OR state = 'settled'),
    CHECK (reported_to IS NULL OR success_reported_at IS NOT NULL),
    CHECK ((state_id IS NULL) = (state_revision IS NULL)),
    CHECK (state_id IS NOT NULL OR NOT state_exclusive)
) STRICT;

CREATE INDEX settlements_open ON settlements (network) WHERE state = 'open';
CREATE INDEX settlements_handed_over ON settlements (network) WHERE state = 'open' AND owner IS NULL;
CREATE INDEX settlements_not_final ON settlements (network) WHERE state = 'settled' AND final_at IS NULL;
CREATE UNIQUE INDEX settlements_number ON settlements (number);
CREATE INDEX settlements_refunds ON settlements (refund_of, number) WHERE refund_of IS NOT NULL;
CREATE INDEX settlements_state ON settlements (state_id, number) WHERE state_id IS NOT NULL;

CREATE TABLE transactions (
    number         INTEGER PRIMARY KEY,       -- in the order in which they were signed
    id             TEXT NOT NULL UNIQUE,
    network        TEXT NOT NULL,
    lane           TEXT NOT NULL,             -- the signer's address
    sequence       INTEGER NOT NULL,          -- the sequence number in the lane (EVM: the nonce)
    bytes          BLOB NOT NULL,             -- signed, exactly as they are sent
    signed_at      INTEGER NOT NULL,
    withdrawn      INTEGER NOT NULL DEFAULT 0 -- 1: a node refused it, and it is not sent again
) STRICT;

CREATE INDEX transactions_lane ON transactions (network, lane, sequence);

CREATE TABLE settlement_transactions (
    settlement     BLOB NOT NULL REFERENCES settlements (id),
    attempt        INTEGER NOT NULL,
    transaction_id TEXT NOT NULL REFERENCES transactions (id),
    step           INTEGER NOT NULL DEFAULT 0, -- 0: the action that settles
    PRIMARY KEY (settlement, transaction_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX settlement_transactions_of ON settlement_transactions (transaction_id);

CREATE TABLE scheme_states (
    id             BLOB PRIMARY KEY,          -- 32 bytes
    network        TEXT NOT NULL,             -- CAIP-2
    scheme         TEXT NOT NULL,
    revision       INTEGER NOT NULL,          -- how many times it was written; 0: only taken
    state          BLOB NOT NULL,             -- the scheme's own content
    due            INTEGER,                   -- when the scheme wants to look after it
    exclusive      BLOB REFERENCES settlements (id) -- the open settlement that has it for itself
) STRICT;

CREATE INDEX scheme_states_due ON scheme_states (network, scheme, due) WHERE due IS NOT NULL;
CREATE INDEX scheme_states_exclusive ON scheme_states (exclusive) WHERE exclusive IS NOT NULL;

CREATE TABLE leases (
    name           TEXT PRIMARY KEY,          -- what only one replica may do
    holder         BLOB,                      -- the replica that holds it, 16 bytes; NULL: none
    token          INTEGER NOT NULL           -- how many times it was acquired
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    number         INTEGER PRIMARY KEY,       -- from 1, in the order of the changes
    settlement     BLOB NOT NULL,
    attempt        INTEGER NOT NULL,
    kind           TEXT NOT NULL,
    transaction_id TEXT,
    network        TEXT NOT NULL,             -- CAIP-2
    caller         TEXT,                      -- that claimed this attempt
    at             INTEGER NOT NULL
) STRICT;

CREATE TABLE event_readers (
    name           TEXT PRIMARY KEY,
    cursor         TEXT NOT NULL              -- behind the last event that it has finished
) STRICT, WITHOUT ROWID;

-- Every change of a settlement writes its event, whatever statement made the change.
CREATE TRIGGER settlement_claimed AFTER INSERT ON settlements WHEN new.state = 'open' BEGIN
    INSERT INTO events (settlement, attempt, kind, network, caller, at)
    VALUES (new.id, new.attempt, 'claimed', new.network, new.caller, new.claimed_at);
END;

-- One trigger, because SQLite does not say in which order several of them run.
CREATE TRIGGER settlement_changed AFTER UPDATE ON settlements BEGIN
    INSERT INTO events (settlement, attempt, kind, network, caller, at)
    SELECT new.id, new.attempt, 'claimed', new.network, new.caller, new.claimed_at
    WHERE new.attempt > old.attempt;
    INSERT INTO events (settlement, attempt, kind, transaction_id, network, caller, at)
    SELECT new.id, new.attempt, new.state, new.transaction_id, new.network, new.caller,
        coalesce(new.concluded_at, new.claimed_at)
    WHERE old.state = 'open' AND new.state <> 'open';
    INSERT INTO events (settlement, attempt, kind, transaction_id, network, caller, at)
    SELECT new.id, new.attempt, 'reported', new.transaction_id, new.network, new.caller, new.success_reported_at
    WHERE old.success_reported_at IS NULL AND new.success_reported_at IS NOT NULL;
    INSERT INTO events (settlement, attempt, kind, transaction_id, network, caller, at)
    SELECT new.id, new.attempt, 'final', new.transaction_id, new.network, new.caller, new.final_at
    WHERE old.final_at IS NULL AND new.final_at IS NOT NULL;
END;

-- A settlement that has ended gets transactions only when it is restored from another journal.
CREATE TRIGGER transaction_signed AFTER INSERT ON settlement_transactions BEGIN
    INSERT INTO events (settlement, attempt, kind, transaction_id, network, caller, at)
    SELECT new.settlement, new.attempt, 'signed', t.id, s.network, s.caller, t.signed_at
    FROM settlements s JOIN transactions t ON t.id = new.transaction_id
    WHERE s.id = new.settlement AND s.state = 'open' AND s.attempt = new.attempt;
END;

-- The same bytes may be signed again for a later attempt.
CREATE TRIGGER transaction_signed_again AFTER UPDATE OF attempt ON settlement_transactions
WHEN new.attempt > old.attempt BEGIN
    INSERT INTO events (settlement, attempt, kind, transaction_id, network, caller, at)
    SELECT new.settlement, new.attempt, 'signed', t.id, s.network, s.caller, t.signed_at
    FROM settlements s JOIN transactions t ON t.id = new.transaction_id
    WHERE s.id = new.settlement AND s.state = 'open' AND s.attempt = new.attempt;
END;

PRAGMA user_version = 5;
COMMIT;
