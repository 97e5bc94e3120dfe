-- From format 2 to format 3: new column names, the kind of fault of a release, and numbers for
-- listings. SQLite also changes the names in the CHECKs and in the indexes.
BEGIN;

ALTER TABLE settlements RENAME COLUMN told_at TO success_reported_at;
ALTER TABLE settlements ADD COLUMN fault TEXT;
ALTER TABLE settlements ADD COLUMN retry_after INTEGER;
ALTER TABLE settlements ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
ALTER TABLE transactions RENAME COLUMN place TO sequence;

-- Format 2 wrote the kind of fault in front of the detail, as in "busy: the queue is full".
UPDATE settlements
SET fault = substr(detail, 1, instr(detail, ': ') - 1), detail = substr(detail, instr(detail, ': ') + 2)
WHERE state = 'released' AND substr(detail, 1, instr(detail, ': ') - 1) IN (
    'busy', 'chain_unavailable', 'insufficient_facilitator_funds', 'journal_unavailable',
    'facilitator_unreachable', 'not_yet_valid', 'misconfigured', 'internal_error');
UPDATE settlements SET fault = 'busy' WHERE state = 'released' AND fault IS NULL;
UPDATE settlements
SET retry_after = CASE fault
    WHEN 'busy' THEN 1
    WHEN 'not_yet_valid' THEN 2
    WHEN 'insufficient_facilitator_funds' THEN 60
    WHEN 'misconfigured' THEN NULL
    ELSE 5 END
WHERE state = 'released';

-- The rows are in the order of their first claim.
UPDATE settlements SET number = rowid;
CREATE UNIQUE INDEX settlements_number ON settlements (number);

PRAGMA user_version = 3;
COMMIT;
