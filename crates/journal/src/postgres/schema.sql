-- Format 1 of the journal in PostgreSQL. See docs/journal.md. It has the tables and the columns of
-- SQLite's format 5, in PostgreSQL's types, and those that SQLite's journal keeps in memory.
CREATE TABLE settlements (
    id             bytea PRIMARY KEY CHECK (length(id) = 32), -- the authorization's identity
    network        text NOT NULL,             -- CAIP-2
    scheme         text NOT NULL,
    payer          text NOT NULL,
    pay_to         text NOT NULL,
    asset          text NOT NULL,
    amount         text NOT NULL,             -- to transfer, in atomic units: up to 78 digits
    expires        bigint NOT NULL,           -- seconds since 1970, as all times
    request        text NOT NULL,             -- the parts that a scheme reads
    decoded_at     bigint NOT NULL,
    attempt        bigint NOT NULL,           -- from 1
    failures       bigint NOT NULL,           -- attempts that ended with a transaction without effect
    state          text NOT NULL CHECK (state IN ('open', 'settled', 'failed', 'released', 'lost')),
    reason         text,                      -- the reason code of a failure or a loss
    detail         text,
    transaction_id text,                      -- the deciding transaction; NULL if nothing was sent
    settled_amount text,
    claimed_at     bigint NOT NULL,           -- of the current attempt
    concluded_at   bigint,
    success_reported_at bigint,               -- when `success: true` was reported
    final_at       bigint,                    -- when its block was found final
    fault          text,                      -- the kind of fault of a release
    retry_after    bigint,                    -- seconds: when to retry after a release
    number         bigint NOT NULL UNIQUE,    -- from 1, in the order of the first claim
    caller         text,                      -- the name of the caller's key; NULL: any caller
    state_id       bytea,                     -- the state record that it uses
    state_revision bigint,                    -- the revision that it was judged by
    state_exclusive boolean NOT NULL DEFAULT false, -- it has the record for itself while it is open
    refund_of      bytea REFERENCES settlements (id),
    retries_without_limit boolean NOT NULL DEFAULT false,
    receipt        text,                      -- JSON: the answer's amount and more fields of extra
    reported_to    text,                      -- the key of the caller that success was reported to
    owner          bytea,                     -- the replica that works on it, 16 bytes; NULL: none
    wanted_lane    text,                      -- the only lane that can send it, if it was handed over
    CHECK (state <> 'settled' OR settled_amount IS NOT NULL),
    CHECK (success_reported_at IS NULL OR state IN ('settled', 'open', 'lost')),
    CHECK (state <> 'lost' OR success_reported_at IS NOT NULL),
    CHECK (final_at IS NULL OR state = 'settled'),
    CHECK (reported_to IS NULL OR success_reported_at IS NOT NULL),
    CHECK ((state_id IS NULL) = (state_revision IS NULL)),
    CHECK (state_id IS NOT NULL OR NOT state_exclusive)
);

CREATE INDEX settlements_open ON settlements (network) WHERE state = 'open';
CREATE INDEX settlements_handed_over ON settlements (network) WHERE state = 'open' AND owner IS NULL;
CREATE INDEX settlements_not_final ON settlements (network) WHERE state = 'settled' AND final_at IS NULL;
CREATE INDEX settlements_refunds ON settlements (refund_of, number) WHERE refund_of IS NOT NULL;
CREATE INDEX settlements_state ON settlements (state_id, number) WHERE state_id IS NOT NULL;

CREATE TABLE transactions (
    number         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- in the order of the signing
    id             text NOT NULL UNIQUE,
    network        text NOT NULL,
    lane           text NOT NULL,             -- the signer's address
    sequence       bigint NOT NULL,           -- the sequence number in the lane (EVM: the nonce)
    bytes          bytea NOT NULL,            -- signed, exactly as they are sent
    signed_at      bigint NOT NULL,
    withdrawn      boolean NOT NULL DEFAULT false -- a node refused it, and it is not sent again
);

CREATE INDEX transactions_lane ON transactions (network, lane, sequence);

CREATE TABLE settlement_transactions (
    settlement     bytea NOT NULL REFERENCES settlements (id),
    attempt        bigint NOT NULL,
    transaction_id text NOT NULL REFERENCES transactions (id),
    step           bigint NOT NULL DEFAULT 0, -- 0: the action that settles
    PRIMARY KEY (settlement, transaction_id)
);

CREATE INDEX settlement_transactions_of ON settlement_transactions (transaction_id);

CREATE TABLE scheme_states (
    id             bytea PRIMARY KEY CHECK (length(id) = 32),
    network        text NOT NULL,             -- CAIP-2
    scheme         text NOT NULL,
    revision       bigint NOT NULL,           -- how many times it was written; 0: only taken
    state          bytea NOT NULL,            -- the scheme's own content
    due            bigint,                    -- when the scheme wants to look after it
    exclusive      bytea REFERENCES settlements (id) -- the open settlement that has it for itself
);

CREATE INDEX scheme_states_due ON scheme_states (network, scheme, due) WHERE due IS NOT NULL;
CREATE INDEX scheme_states_exclusive ON scheme_states (exclusive) WHERE exclusive IS NOT NULL;

CREATE TABLE members (
    replica        bytea PRIMARY KEY CHECK (length(replica) = 16),
    until          timestamptz NOT NULL       -- by this server's clock
);

CREATE TABLE leases (
    name           text PRIMARY KEY,          -- what only one replica may do
    holder         bytea,                     -- the replica that holds it; NULL: none
    token          bigint NOT NULL            -- how many times it was acquired
);

-- What is lost of it after a crash of the server costs no money, so no write of it waits for the disk.
CREATE UNLOGGED TABLE state_holds (
    state          bytea PRIMARY KEY,         -- a state record
    payment        bytea NOT NULL,            -- the verified payment that holds it
    until          timestamptz NOT NULL
);

CREATE TABLE events (
    number         bigint PRIMARY KEY,        -- from 1 without a gap, in the order of the changes
    settlement     bytea NOT NULL,
    attempt        bigint NOT NULL,
    kind           text NOT NULL,
    transaction_id text,
    network        text NOT NULL,             -- CAIP-2
    caller         text,                      -- that claimed this attempt
    at             bigint NOT NULL
);

CREATE TABLE event_readers (
    name           text PRIMARY KEY,
    cursor         text NOT NULL              -- behind the last event that it has finished
);

-- Writers are one after another, so the next number is free.
CREATE FUNCTION quittance_event(settlement settlements, kind text, transaction_id text, at bigint)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO events (number, settlement, attempt, kind, transaction_id, network, caller, at)
    VALUES ((SELECT coalesce(max(number), 0) + 1 FROM events), settlement.id, settlement.attempt,
        kind, transaction_id, settlement.network, settlement.caller, at)
$$;

-- Every change of a settlement writes its event, whatever statement made the change.
CREATE FUNCTION quittance_settlement_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF new.state = 'open' THEN
            PERFORM quittance_event(new, 'claimed', NULL, new.claimed_at);
        END IF;
        RETURN NULL;
    END IF;
    IF new.attempt > old.attempt THEN
        PERFORM quittance_event(new, 'claimed', NULL, new.claimed_at);
    END IF;
    IF old.state = 'open' AND new.state <> 'open' THEN
        PERFORM quittance_event(new, new.state, new.transaction_id,
            coalesce(new.concluded_at, new.claimed_at));
    END IF;
    IF old.success_reported_at IS NULL AND new.success_reported_at IS NOT NULL THEN
        PERFORM quittance_event(new, 'reported', new.transaction_id, new.success_reported_at);
    END IF;
    IF old.final_at IS NULL AND new.final_at IS NOT NULL THEN
        PERFORM quittance_event(new, 'final', new.transaction_id, new.final_at);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER settlement_changed AFTER INSERT OR UPDATE ON settlements
FOR EACH ROW EXECUTE FUNCTION quittance_settlement_changed();

-- A settlement that has ended gets transactions only when it is restored from another journal. The
-- same bytes may be signed again for a later attempt.
CREATE FUNCTION quittance_transaction_signed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND new.attempt <= old.attempt THEN
        RETURN NULL;
    END IF;
    PERFORM quittance_event(s, 'signed', t.id, t.signed_at)
    FROM settlements s JOIN transactions t ON t.id = new.transaction_id
    WHERE s.id = new.settlement AND s.state = 'open' AND s.attempt = new.attempt;
    RETURN NULL;
END $$;

CREATE TRIGGER transaction_signed AFTER INSERT OR UPDATE OF attempt ON settlement_transactions
FOR EACH ROW EXECUTE FUNCTION quittance_transaction_signed();

-- Wakes the readers of the feed in every process, once for each commit.
CREATE FUNCTION quittance_events_written() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('quittance_events', current_schema());
    RETURN NULL;
END $$;

CREATE TRIGGER events_written AFTER INSERT ON events
FOR EACH STATEMENT EXECUTE FUNCTION quittance_events_written();

CREATE TABLE quittance_format (format bigint NOT NULL);
INSERT INTO quittance_format VALUES (1);
