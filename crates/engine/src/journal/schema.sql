-- Format 2. See docs/journal.md.
BEGIN;

CREATE TABLE settlements (
    id             BLOB PRIMARY KEY,          -- the authorization's identity, 32 bytes
    network        TEXT NOT NULL,             -- CAIP-2
    scheme         TEXT NOT NULL,
    payer          TEXT NOT NULL,
    pay_to         TEXT NOT NULL,
    asset          TEXT NOT NULL,
    amount         TEXT NOT NULL,             -- to be moved, atomic units
    expires        INTEGER NOT NULL,          -- seconds since 1970, as all times
    request        TEXT NOT NULL,             -- as far as a scheme reads it
    decoded_at     INTEGER NOT NULL,
    attempt        INTEGER NOT NULL,          -- from 1
    failures       INTEGER NOT NULL,          -- attempts that ended with a transaction without effect
    state          TEXT NOT NULL CHECK (state IN ('open', 'settled', 'failed', 'released', 'lost')),
    reason         TEXT,                      -- of a failure or a loss
    detail         TEXT,
    transaction_id TEXT,                      -- the one that decided
    settled_amount TEXT,
    claimed_at     INTEGER NOT NULL,          -- the current attempt
    concluded_at   INTEGER,
    told_at        INTEGER,                   -- when somebody was told success
    final_at       INTEGER,                   -- when its block was found final; not watched from then on
    CHECK (state <> 'settled' OR (transaction_id IS NOT NULL AND settled_amount IS NOT NULL)),
    CHECK (told_at IS NULL OR state IN ('settled', 'open', 'lost')),
    CHECK (state <> 'lost' OR told_at IS NOT NULL),
    CHECK (final_at IS NULL OR state = 'settled')
) STRICT;

CREATE INDEX settlements_open ON settlements (network) WHERE state = 'open';
CREATE INDEX settlements_not_final ON settlements (network) WHERE state = 'settled' AND final_at IS NULL;

CREATE TABLE transactions (
    number         INTEGER PRIMARY KEY,       -- in the order they were signed
    id             TEXT NOT NULL UNIQUE,
    network        TEXT NOT NULL,
    lane           TEXT NOT NULL,             -- the signer's address
    place          INTEGER NOT NULL,          -- its number in the lane (nonce)
    bytes          BLOB NOT NULL,             -- signed, as they are sent
    signed_at      INTEGER NOT NULL,
    withdrawn      INTEGER NOT NULL DEFAULT 0 -- refused by a node, and not sent again
) STRICT;

CREATE INDEX transactions_lane ON transactions (network, lane, place);

CREATE TABLE settlement_transactions (
    settlement     BLOB NOT NULL REFERENCES settlements (id),
    attempt        INTEGER NOT NULL,
    transaction_id TEXT NOT NULL REFERENCES transactions (id),
    PRIMARY KEY (settlement, transaction_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX settlement_transactions_of ON settlement_transactions (transaction_id);

PRAGMA user_version = 2;
COMMIT;
