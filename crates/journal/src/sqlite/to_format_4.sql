-- From format 3 to format 4: settlements without a transaction, steps, state records, refunds, callers
-- and receipts. SQLite cannot change a CHECK, so the table is created again
-- (https://www.sqlite.org/lang_altertable.html, section 7).
BEGIN;

CREATE TABLE settlements_4 (
    id             BLOB PRIMARY KEY,
    network        TEXT NOT NULL,
    scheme         TEXT NOT NULL,
    payer          TEXT NOT NULL,
    pay_to         TEXT NOT NULL,
    asset          TEXT NOT NULL,
    amount         TEXT NOT NULL,
    expires        INTEGER NOT NULL,
    request        TEXT NOT NULL,
    decoded_at     INTEGER NOT NULL,
    attempt        INTEGER NOT NULL,
    failures       INTEGER NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('open', 'settled', 'failed', 'released', 'lost')),
    reason         TEXT,
    detail         TEXT,
    transaction_id TEXT,
    settled_amount TEXT,
    claimed_at     INTEGER NOT NULL,
    concluded_at   INTEGER,
    success_reported_at INTEGER,
    final_at       INTEGER,
    fault          TEXT,
    retry_after    INTEGER,
    number         INTEGER NOT NULL DEFAULT 0,
    caller         TEXT,
    state_id       BLOB,
    state_revision INTEGER,
    state_exclusive INTEGER NOT NULL DEFAULT 0,
    refund_of      BLOB REFERENCES settlements (id),
    retries_without_limit INTEGER NOT NULL DEFAULT 0,
    receipt        TEXT,
    reported_to    TEXT,
    CHECK (state <> 'settled' OR settled_amount IS NOT NULL),
    CHECK (success_reported_at IS NULL OR state IN ('settled', 'open', 'lost')),
    CHECK (state <> 'lost' OR success_reported_at IS NOT NULL),
    CHECK (final_at IS NULL OR state = 'settled'),
    CHECK (reported_to IS NULL OR success_reported_at IS NOT NULL),
    CHECK ((state_id IS NULL) = (state_revision IS NULL)),
    CHECK (state_id IS NOT NULL OR NOT state_exclusive)
) STRICT;

INSERT INTO settlements_4 (
    id, network, scheme, payer, pay_to, asset, amount, expires, request, decoded_at, attempt, failures, state, reason,
    detail, transaction_id, settled_amount, claimed_at, concluded_at, success_reported_at, final_at, fault,
    retry_after, number)
SELECT
    id, network, scheme, payer, pay_to, asset, amount, expires, request, decoded_at, attempt, failures, state, reason,
    detail, transaction_id, settled_amount, claimed_at, concluded_at, success_reported_at, final_at, fault,
    retry_after, number
FROM settlements;

DROP TABLE settlements;
ALTER TABLE settlements_4 RENAME TO settlements;
CREATE INDEX settlements_open ON settlements (network) WHERE state = 'open';
CREATE INDEX settlements_not_final ON settlements (network) WHERE state = 'settled' AND final_at IS NULL;
CREATE UNIQUE INDEX settlements_number ON settlements (number);
CREATE INDEX settlements_refunds ON settlements (refund_of, number) WHERE refund_of IS NOT NULL;
CREATE INDEX settlements_state ON settlements (state_id, number) WHERE state_id IS NOT NULL;

ALTER TABLE settlement_transactions ADD COLUMN step INTEGER NOT NULL DEFAULT 0;

CREATE TABLE scheme_states (
    id             BLOB PRIMARY KEY,
    network        TEXT NOT NULL,
    scheme         TEXT NOT NULL,
    revision       INTEGER NOT NULL,
    state          BLOB NOT NULL,
    due            INTEGER,
    exclusive      BLOB REFERENCES settlements (id)
) STRICT;

CREATE INDEX scheme_states_due ON scheme_states (network, scheme, due) WHERE due IS NOT NULL;
CREATE INDEX scheme_states_exclusive ON scheme_states (exclusive) WHERE exclusive IS NOT NULL;

PRAGMA user_version = 4;
COMMIT;
