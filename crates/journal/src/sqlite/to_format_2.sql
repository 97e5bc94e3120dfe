-- From format 1 to format 2: the state `lost`, `final_at`, and reported success of a settlement that
-- is open again. SQLite cannot change a CHECK, so the table is created again
-- (https://www.sqlite.org/lang_altertable.html, section 7).
BEGIN;

CREATE TABLE settlements_2 (
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
    told_at        INTEGER,
    final_at       INTEGER,
    CHECK (state <> 'settled' OR (transaction_id IS NOT NULL AND settled_amount IS NOT NULL)),
    CHECK (told_at IS NULL OR state IN ('settled', 'open', 'lost')),
    CHECK (state <> 'lost' OR told_at IS NOT NULL),
    CHECK (final_at IS NULL OR state = 'settled')
) STRICT;

-- Payments that settled more than a day before the newest one are final: nodes may not remember them.
INSERT INTO settlements_2
SELECT id, network, scheme, payer, pay_to, asset, amount, expires, request, decoded_at, attempt, failures, state, reason,
       detail, transaction_id, settled_amount, claimed_at, concluded_at, told_at,
       CASE WHEN state = 'settled' AND concluded_at < (SELECT max(concluded_at) FROM settlements) - 86400
            THEN concluded_at END
FROM settlements;

DROP TABLE settlements;
ALTER TABLE settlements_2 RENAME TO settlements;
CREATE INDEX settlements_open ON settlements (network) WHERE state = 'open';
CREATE INDEX settlements_not_final ON settlements (network) WHERE state = 'settled' AND final_at IS NULL;

PRAGMA user_version = 2;
COMMIT;
