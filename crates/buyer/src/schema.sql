-- The open payments of one buyer. `PRAGMA user_version` is the version of this schema.
CREATE TABLE payments (
    -- The purchase: a hash of the request, the recipient and the amount.
    purchase     BLOB NOT NULL CHECK (length(purchase) = 32),
    id           TEXT NOT NULL,
    -- The request: a hash of method, URL and body. NULL in payments imported from version 1 of the JSON format.
    request      BLOB CHECK (length(request) = 32),
    x402_version INTEGER NOT NULL,
    -- The header that presents the payment; or, after it has expired, only its payload.
    header       TEXT,
    payload      TEXT,
    exposure     TEXT NOT NULL CHECK (exposure IN ('none', 'refused', 'possible')),
    network      TEXT NOT NULL,
    origin       TEXT NOT NULL,
    asset        TEXT NOT NULL,
    symbol       TEXT NOT NULL,
    decimals     INTEGER,
    pay_to       TEXT NOT NULL,
    -- Atomic units, in decimal.
    amount       TEXT NOT NULL,
    -- Seconds since the Unix epoch, in decimal: SQLite's integers end at 2^63.
    expires      TEXT NOT NULL,
    transaction_id TEXT,
    PRIMARY KEY (purchase, id),
    CHECK ((header IS NULL) <> (payload IS NULL))
) STRICT;
