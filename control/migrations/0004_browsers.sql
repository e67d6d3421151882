-- What a key is: one that is tapped, or a passkey that verified its user when it was enrolled and does so at sign-in.
ALTER TABLE credentials ADD COLUMN kind TEXT NOT NULL DEFAULT 'security_key'
    CHECK (kind IN ('security_key', 'passkey'));

-- Who is signed in at the pages. Of the cookie only its hash is kept. A session goes with its user, and with the key
-- that opened it.
CREATE TABLE web_sessions (
    hash BLOB NOT NULL PRIMARY KEY,
    user TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    key_id TEXT REFERENCES credentials (id) ON DELETE CASCADE,
    created INTEGER NOT NULL,
    last_used INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX web_sessions_by_user ON web_sessions (user);
CREATE INDEX web_sessions_by_expiry ON web_sessions (expires);
