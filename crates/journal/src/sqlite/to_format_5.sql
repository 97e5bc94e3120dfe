-- From format 4 to format 5: leases, and which replica works on a settlement.
BEGIN;

ALTER TABLE settlements ADD COLUMN owner BLOB;
ALTER TABLE settlements ADD COLUMN wanted_lane TEXT;

CREATE INDEX settlements_handed_over ON settlements (network) WHERE state = 'open' AND owner IS NULL;

CREATE TABLE leases (
    name           TEXT PRIMARY KEY,
    holder         BLOB,
    token          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 5;
COMMIT;
