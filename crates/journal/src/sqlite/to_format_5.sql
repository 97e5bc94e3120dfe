-- From format 4 to format 5: leases, which replica works on a settlement, and the feed of events, which
-- begins with the first change after the migration.
BEGIN;

ALTER TABLE settlements ADD COLUMN owner BLOB;
ALTER TABLE settlements ADD COLUMN wanted_lane TEXT;

CREATE INDEX settlements_handed_over ON settlements (network) WHERE state = 'open' AND owner IS NULL;

CREATE TABLE leases (
    name           TEXT PRIMARY KEY,
    holder         BLOB,
    token          INTEGER NOT NULL
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
